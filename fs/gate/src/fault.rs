//! `inflight fault SOCKET ...`: errors, delays and losses for people who test their own software.

mod file;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};

use super::cli::duration;
use super::client::Client;
use super::wire::RuleInfo;
use super::words::{fault, which};
use super::{Action, GateError, MILLION, Phase, Rule, TTL_DEFAULT_MS, TTL_UNBOUNDED_MS, errno};

/// What the server is asked for a power cut; with [`AND_BACK`] the mount comes back.
pub const POWER_CUT: &str = "power-cut";
/// See [`POWER_CUT`].
pub const AND_BACK: &str = "power-cut remount";

/// How long a power cut may take, and the mount to come back.
const CUT_BOUND: Duration = Duration::from_secs(60);

/// Makes requests fail, wait, come short or get lost, as a broken disk would.
#[derive(Debug, Parser)]
pub struct FaultArgs {
    /// Socket that the filesystem was mounted with (--gate).
    pub socket: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What is to go wrong, or right again.
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Answer with an error.
    Fail {
        /// By name (EIO, ENOSPC) or number.
        #[arg(value_parser = errno::parse)]
        errno: i32,
        /// Which requests.
        #[command(flatten)]
        which: Which,
    },
    /// Transfer at most so many bytes of a read or write.
    Short {
        /// Bytes, e.g. 512 or 4K.
        #[arg(value_parser = crate::size::parse)]
        bytes: u64,
        /// Which requests.
        #[command(flatten)]
        which: Which,
    },
    /// Write the first bytes of a write and lose the rest, and say that all is written: a torn write.
    Torn {
        /// Bytes that are written, e.g. 512 for one sector, 0 for none.
        #[arg(value_parser = crate::size::parse)]
        bytes: u64,
        /// Which requests.
        #[command(flatten)]
        which: Which,
    },
    /// Turn over bits of what is read or written, and say nothing of it.
    Corrupt {
        /// How many in each request; of a single one that in the middle.
        #[arg(default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        bits: u32,
        /// Which requests.
        #[command(flatten)]
        which: Which,
    },
    /// Read and write no faster than this, one request after the other.
    Bandwidth {
        /// Bytes a second, e.g. 1M.
        #[arg(value_parser = crate::size::parse)]
        rate: u64,
        /// Which requests.
        #[command(flatten)]
        which: Which,
    },
    /// Answer late.
    Delay {
        /// By how much, e.g. 200ms, 5s; at most 10m.
        #[arg(value_parser = duration)]
        time: Duration,
        /// Which requests.
        #[command(flatten)]
        which: Which,
    },
    /// Do not answer, until the rule ends or is released; then the answer is EIO.
    Drop {
        /// Which requests.
        #[command(flatten)]
        which: Which,
    },
    /// Read rules from a file: TOML in the words of this command, or JSON lines in those of the gate's protocol.
    Load {
        /// The file; - is standard input.
        file: PathBuf,
    },
    /// Show the rules, and how often each one matched and acted.
    List,
    /// End a rule, or all of them, and let go what they held.
    Release {
        /// Its number.
        rule: Option<u64>,
    },
    /// Lose everything that was not synced, as if the plug had been pulled.
    PowerCut {
        /// Mount again from what is left. Whoever has files open gets errors; new opens find the files as after a reboot.
        #[arg(long)]
        remount: bool,
    },
}

/// Which requests a fault is for. All that is given must match.
#[derive(Debug, Args)]
pub struct Which {
    /// Kinds of requests, e.g. read,write; fdatasync is apart from fsync.
    #[arg(long)]
    op: Option<String>,
    /// Path below the mount's root, or a pattern; without a slash, of the name alone. It need not exist yet.
    #[arg(long)]
    path: Option<String>,
    /// First byte of a range that the request must overlap, e.g. 1M.
    #[arg(long, value_parser = crate::size::parse)]
    offset: Option<u64>,
    /// Bytes of that range.
    #[arg(long, value_parser = crate::size::parse)]
    len: Option<u64>,
    /// The first match that is meant, counted from 1.
    #[arg(long)]
    nth: Option<u64>,
    /// One of so many matches.
    #[arg(long)]
    every: Option<u64>,
    /// With this probability, e.g. 0.01 or 1%.
    #[arg(long, value_parser = probability)]
    probability: Option<u32>,
    /// What the choices begin with; printed when it is not given.
    #[arg(long, requires = "probability")]
    seed: Option<u64>,
    /// How many times.
    #[arg(long)]
    count: Option<u64>,
    /// Requests of this process.
    #[arg(long)]
    pid: Option<u32>,
    /// Requests of this user.
    #[arg(long)]
    uid: Option<u32>,
    /// Requests of threads of this name (/proc/PID/comm).
    #[arg(long)]
    comm: Option<String>,
    /// When: received is before anything is done, applied afterwards.
    #[arg(long, value_enum, default_value = "received")]
    phase: Phase,
    /// For how long, e.g. 5m; without, until it is released or the mount ends (drop: 60s, at most 10m).
    #[arg(long = "for", value_parser = duration)]
    life: Option<Duration>,
}

impl Which {
    fn rule(self, action: Action) -> Rule {
        let seed = self.seed.or_else(|| self.probability.map(|_| rand::random()));
        let unsaid = if action.holds() { 6 * TTL_DEFAULT_MS } else { TTL_UNBOUNDED_MS };
        Rule {
            op: self.op,
            glob: self.path,
            offset: self.offset,
            len: self.len,
            nth: self.nth,
            every: self.every,
            millionths: self.probability,
            seed,
            count: self.count,
            pid: self.pid,
            uid: self.uid,
            comm: self.comm,
            action,
            ttl_ms: self.life.map_or(unsaid, |life| life.as_millis() as u64),
            detached: true,
            ..Rule::at(self.phase)
        }
    }
}

/// Runs one command against a gate.
///
/// # Errors
/// Everything of [`GateError`], and what cannot be read of a file.
pub fn run(args: FaultArgs) -> anyhow::Result<()> {
    let mut client = Client::connect(&args.socket)?;
    let mut out = std::io::stdout().lock();
    let rule = match args.command {
        Command::Fail { errno, which } => which.rule(Action::Fail(errno)),
        Command::Short { bytes, which } => {
            which.rule(Action::Short(u32::try_from(bytes).unwrap_or(u32::MAX)))
        }
        Command::Torn { bytes, which } => {
            which.rule(Action::Torn(u32::try_from(bytes).unwrap_or(u32::MAX)))
        }
        Command::Corrupt { bits, which } => which.rule(Action::Corrupt(bits)),
        Command::Bandwidth { rate, which } => which.rule(Action::Bandwidth(rate)),
        Command::Delay { time, which } => which.rule(Action::Delay(time.as_millis() as u64)),
        Command::Drop { which } => which.rule(Action::Drop),
        Command::Load { file } => return load(&mut out, &mut client, &file),
        Command::List => return list(&mut out, &client.list()?.rules),
        Command::Release { rule } => {
            let count = match rule {
                Some(rule) => client.unpark(rule)?,
                None => client.open()?,
            };
            writeln!(out, "released {count}")?;
            return Ok(());
        }
        Command::PowerCut { remount } => return power_cut(&mut out, client, &args.socket, remount),
    };
    arm(&mut out, &mut client, rule)
}

fn arm(out: &mut impl Write, client: &mut Client, rule: Rule) -> anyhow::Result<()> {
    let seed = rule.seed;
    let id = client.park(rule)?;
    match seed {
        Some(seed) => writeln!(out, "rule {id}, seed {seed}")?,
        None => writeln!(out, "rule {id}")?,
    }
    Ok(())
}

/// Makes the rules of a file: all of them, or none when one is wrong.
fn load(out: &mut impl Write, client: &mut Client, path: &std::path::Path) -> anyhow::Result<()> {
    let name = path.display();
    let text = if path.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    let rules = file::rules(&text.with_context(|| name.to_string())?);
    let rules = rules.with_context(|| name.to_string())?;
    rules.into_iter().try_for_each(|rule| arm(out, client, rule))
}

fn list(out: &mut impl Write, rules: &[RuleInfo]) -> anyhow::Result<()> {
    if rules.is_empty() {
        writeln!(out, "no rules")?;
        return Ok(());
    }
    writeln!(
        out,
        "{:>5} {:>8} {:>8} {:>12}  {:14} WHICH",
        "RULE", "MATCHED", "ACTED", "LEFT", "FAULT"
    )?;
    for info in rules {
        let left = match info.rule.ttl_ms {
            TTL_UNBOUNDED_MS => "until opened".to_owned(),
            _ => format!("{} s", info.left_ms / 1000),
        };
        writeln!(
            out,
            "{:>5} {:>8} {:>8} {left:>12}  {:14} {}",
            info.id,
            info.matched,
            info.acted,
            fault(info.rule.action),
            which(&info.rule)
        )?;
    }
    Ok(())
}

fn power_cut(
    out: &mut impl Write,
    mut client: Client,
    socket: &std::path::Path,
    remount: bool,
) -> anyhow::Result<()> {
    let before = client.start_ns();
    let said = client.ask_server(if remount { AND_BACK } else { POWER_CUT }, CUT_BOUND)?;
    writeln!(out, "{said}")?;
    drop(client);
    if !remount {
        return Ok(());
    }
    let end = Instant::now() + CUT_BOUND;
    // A gate that began later is that of the new mount, and it answers this once that mount is there.
    while !is_back(socket, before) {
        ensure!(
            Instant::now() < end,
            "the mount is not back after {CUT_BOUND:?}: unmount what is there, and mount it again"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    writeln!(out, "mounted again")?;
    Ok(())
}

/// What the server says when its mount answers.
pub const IS_MOUNTED: &str = "mounted";

fn is_back(socket: &std::path::Path, before: u64) -> bool {
    let asked = |mut client: Client| -> Result<String, GateError> {
        client.ask_server(IS_MOUNTED, CUT_BOUND)
    };
    let client = Client::connect(socket);
    client.is_ok_and(|client| client.start_ns() != before && asked(client).is_ok())
}

/// Reads a probability, such as 0.01 or 1%, as millionths.
///
/// # Errors
/// It is not above 0 and at most 1.
fn probability(text: &str) -> Result<u32, String> {
    let (number, whole) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
    let share: f64 = number.parse().map_err(|_| "not a number".to_owned())?;
    let parts = (share / whole * f64::from(MILLION)).round();
    if (1.0..=f64::from(MILLION)).contains(&parts) {
        Ok(parts as u32)
    } else {
        Err("a probability is from 0.000001 to 1 (or 0.0001% to 100%)".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TTL_MAX_MS;

    fn rule(line: &str) -> Rule {
        let words = ["fault", "S"].into_iter().chain(line.split(' '));
        match FaultArgs::try_parse_from(words).unwrap().command {
            Command::Fail { errno, which } => which.rule(Action::Fail(errno)),
            Command::Drop { which } => which.rule(Action::Drop),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_fault_lasts_until_it_is_ended_and_what_holds_is_bounded() {
        let made = rule("fail ENOSPC --op write,fallocate --path *.db --offset 1M --every 3");
        assert_eq!(made.action, Action::Fail(28));
        assert_eq!(
            (made.ttl_ms, made.offset, made.every),
            (TTL_UNBOUNDED_MS, Some(1 << 20), Some(3))
        );
        assert!(made.detached);
        assert!(rule("drop").ttl_ms <= TTL_MAX_MS);
        assert!(rule("drop --for 20m").arm().is_err());
        assert!(rule("fail EIO --for 20m").arm().is_ok());
    }

    #[test]
    fn probabilities() {
        assert_eq!(probability("0.25"), Ok(250_000));
        assert_eq!(probability("1%"), Ok(10_000));
        assert_eq!(probability("1"), Ok(MILLION));
        for wrong in ["0", "1.1", "101%", "often", "-1", "NaN"] {
            assert!(probability(wrong).is_err(), "{wrong}");
        }
        let made = rule("fail EIO --probability 0.5");
        assert!(made.seed.is_some() && made.arm().is_ok());
        assert_eq!(rule("fail EIO --probability 0.5 --seed 9").seed, Some(9));
    }
}
