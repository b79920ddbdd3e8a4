//! `inflight gate SOCKET ...`: the gate by hand.

mod log;
mod notify;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use super::client::{Client, Listing};
use super::{Action, Phase, Rule, words};

/// Parks, shows and releases requests of a filesystem mounted with --gate.
#[derive(Debug, Parser)]
pub struct GateArgs {
    /// Socket that the filesystem was mounted with.
    pub socket: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with a gate.
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Make a rule that parks (or delays, fails, shortens) matching requests.
    Park(ParkArgs),
    /// Show rules and parked requests.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let parked requests go; rules stay.
    Release {
        /// Requests to let go, by id; without any, all of them.
        ids: Vec<u64>,
        /// Let go what this rule parked.
        #[arg(long, conflicts_with = "ids")]
        rule: Option<u64>,
    },
    /// Let a parked request go with an error as its answer.
    Fail {
        /// Its id.
        id: u64,
        /// Errno as a number, e.g. 5 for EIO.
        #[arg(value_parser = clap::value_parser!(i32).range(1..4096))]
        errno: i32,
    },
    /// Let a parked request go with at most this many bytes.
    Short {
        /// Its id.
        id: u64,
        /// Bytes.
        bytes: u32,
    },
    /// Do not answer a parked request: until its rule ends or it is released, and then with EIO.
    Drop {
        /// Its id.
        id: u64,
    },
    /// Remove a rule and let go what it parked.
    Unpark {
        /// Its number.
        rule: u64,
    },
    /// Remove every rule and let everything go.
    Open,
    /// Wait until requests are parked; exit code 1 when the time ends first.
    Wait {
        /// Count only what this rule parked.
        #[arg(long)]
        rule: Option<u64>,
        /// How many.
        #[arg(long, default_value_t = 1)]
        parked: u64,
        /// How long.
        #[arg(long, default_value = "10s", value_parser = duration)]
        timeout: Duration,
    },
    /// Show the request log: every request, with the time of every phase.
    Log(log::LogArgs),
    /// Tell the kernel something that it did not ask for: what is stale, what is new, or to send again.
    Notify(notify::NotifyArgs),
}

/// What a rule made by hand looks like. It is detached: it lives for `--for`, not for this command.
#[derive(Debug, Args)]
pub struct ParkArgs {
    /// Kind of request, e.g. read, write, setattr.
    #[arg(long)]
    op: Option<String>,
    /// File, as a path below the mount's root.
    #[arg(long, conflicts_with = "ino")]
    path: Option<String>,
    /// File, by node id.
    #[arg(long)]
    ino: Option<u64>,
    /// Where to stop it.
    #[arg(long, value_enum, default_value = "received")]
    phase: Phase,
    /// At --phase copying: page of the data, from 0, at which the kernel is stopped.
    #[arg(long)]
    page: Option<u64>,
    /// First byte of a range that the request must overlap.
    #[arg(long)]
    offset: Option<u64>,
    /// Bytes of that range.
    #[arg(long)]
    len: Option<u64>,
    /// First match that is acted on, counted from 1.
    #[arg(long)]
    nth: Option<u64>,
    /// How many requests are acted on.
    #[arg(long)]
    count: Option<u64>,
    /// Life of the rule, e.g. 500ms, 60s, 5m; at most 10m.
    #[arg(long = "for", default_value = "60s", value_parser = duration)]
    life: Duration,
    /// Hold each request for so long instead of parking it.
    #[arg(long, value_parser = duration, conflicts_with_all = ["fail", "short"])]
    delay: Option<Duration>,
    /// Answer with this errno instead of parking.
    #[arg(long, conflicts_with = "short")]
    fail: Option<i32>,
    /// Let at most so many bytes through instead of parking.
    #[arg(long)]
    short: Option<u32>,
}

impl ParkArgs {
    fn rule(self) -> Rule {
        let action = match (self.delay, self.fail, self.short) {
            (Some(delay), _, _) => Action::Delay(delay.as_millis() as u64),
            (_, Some(errno), _) => Action::Fail(errno),
            (_, _, Some(bytes)) => Action::Short(bytes),
            _ => Action::Park,
        };
        Rule {
            op: self.op,
            ino: self.ino,
            path: self.path,
            offset: self.offset,
            len: self.len,
            nth: self.nth,
            count: self.count,
            page: self.page,
            action,
            ttl_ms: self.life.as_millis() as u64,
            detached: true,
            ..Rule::at(self.phase)
        }
    }
}

/// Runs one command against a gate.
///
/// # Errors
/// Everything of [`super::GateError`], and a wait whose time ended.
pub fn run(args: GateArgs) -> anyhow::Result<()> {
    let mut client = Client::connect(&args.socket)?;
    let mut out = std::io::stdout().lock();
    let count = match args.command {
        Command::Park(park) => {
            let rule = client.park(park.rule())?;
            writeln!(out, "rule {rule}")?;
            return Ok(());
        }
        Command::List { json } => {
            let listing = client.list()?;
            return if json { list_json(&mut out, &listing) } else { list(&mut out, &listing) };
        }
        Command::Wait { rule, parked, timeout } => {
            let wait = client.wait_parked(rule, parked, timeout)?;
            let found = wait.parked.len();
            anyhow::ensure!(
                wait.reached,
                "{found} of {parked} requests parked after {timeout:?}; `list` shows the rules, `log` what came instead"
            );
            for request in wait.parked {
                writeln!(out, "{}", request.id)?;
            }
            return Ok(());
        }
        Command::Log(args) => return log::run(&mut out, &mut client, &args),
        Command::Notify(args) => return notify::run(&mut out, &mut client, &args),
        Command::Release { ids, rule: None } if !ids.is_empty() => {
            let mut count = 0;
            for id in ids {
                count += client.release(id)?;
            }
            count
        }
        Command::Release { rule: Some(rule), .. } => client.release_rule(rule)?,
        Command::Release { .. } => client.release_all()?,
        Command::Fail { id, errno } => client.fail(id, errno)?,
        Command::Short { id, bytes } => client.short(id, bytes)?,
        Command::Drop { id } => client.discard(id)?,
        Command::Unpark { rule } => client.unpark(rule)?,
        Command::Open => client.open()?,
    };
    writeln!(out, "released {count}")?;
    Ok(())
}

fn list(out: &mut impl Write, listing: &Listing) -> anyhow::Result<()> {
    for info in &listing.rules {
        let (id, parked) = (info.id, info.parked);
        let (what, which) = (words::fault(info.rule.action), words::which(&info.rule));
        let left = match info.rule.ttl_ms {
            super::TTL_UNBOUNDED_MS => "until opened".to_owned(),
            _ => format!("{} s left", info.left_ms / 1000),
        };
        writeln!(out, "rule {id}: {parked} parked, {left}, {what} {which}")?;
    }
    if listing.parked.is_empty() {
        writeln!(out, "nothing is parked")?;
        return Ok(());
    }
    writeln!(
        out,
        "{:>6} {:>10} {:8} {:16} {:>8} {:>8}  RANGE",
        "ID", "AGE", "PHASE", "OP", "INO", "PID"
    )?;
    for request in &listing.parked {
        let age = format!("{}.{:03} s", request.age_ms / 1000, request.age_ms % 1000);
        let end = request.offset.saturating_add(request.len);
        writeln!(
            out,
            "{:>6} {age:>10} {:8} {:16} {:>8} {:>8}  {}..{end}",
            request.id, request.phase, request.op, request.ino, request.pid, request.offset
        )?;
    }
    Ok(())
}

fn list_json(out: &mut impl Write, listing: &Listing) -> anyhow::Result<()> {
    let text = serde_json::json!({
        "rules": listing.rules,
        "parked": listing.parked,
        "watchdog_releases": listing.watchdog_releases,
        "last_seq": listing.last_seq,
    });
    writeln!(out, "{text}")?;
    Ok(())
}

/// Reads `500ms`, `60s`, `5m` or plain seconds.
///
/// # Errors
/// It looks like none of them.
pub fn duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().context("a duration looks like 500ms, 60s or 5m")?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        _ => anyhow::bail!("unknown unit '{unit}'; a duration looks like 500ms, 60s or 5m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("60s").unwrap(), Duration::from_secs(60));
        assert_eq!(duration("5m").unwrap(), Duration::from_secs(300));
        assert!(duration("5h").unwrap_err().to_string().contains("unknown unit 'h'"));
        assert!(duration("soon").is_err());
    }

    #[test]
    fn a_rule_made_by_hand_is_detached() {
        let args = ["gate", "S", "park", "--op", "read", "--path", "/a", "--for", "5s"];
        let Command::Park(park) = GateArgs::parse_from(args).command else { panic!() };
        let rule = park.rule();
        assert!(rule.detached);
        assert_eq!((rule.ttl_ms, rule.phase, rule.action), (5000, Phase::Received, Action::Park));
    }
}
