//! `inflight gate SOCKET log`: the request log as a table, as JSON lines, and as a trace.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::duration;
use crate::tracefs::Recording;
use crate::utc::{monotonic_epoch_ns, utc};
use crate::wire::LOG_MAX;
use crate::{Client, Outcome, Phase, Record, errno, perfetto};

/// How long one question to the gate waits for records.
const FOLLOW: Duration = Duration::from_secs(60);
/// How often a recording looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(100);

/// Which requests, and how they are shown.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// As JSON lines, with all that is known of each request.
    #[arg(long)]
    json: bool,
    /// Skip so many finished requests.
    #[arg(long, default_value_t = 0)]
    since: u64,
    /// Go on until interrupted.
    #[arg(short, long, conflicts_with = "perfetto")]
    follow: bool,
    /// Write a trace that ui.perfetto.dev opens: each request a slice, its phases in it.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    perfetto: Option<PathBuf>,
    /// Record what comes in this time, or until interrupted, and as root the kernel's side of it, too.
    #[arg(long = "for", value_name = "TIME", value_parser = duration, requires = "perfetto")]
    life: Option<Duration>,
}

/// Prints the log, or writes it.
///
/// # Errors
/// The gate is gone, or the output cannot be written.
pub(super) fn run(out: &mut impl Write, client: &mut Client, args: &LogArgs) -> anyhow::Result<()> {
    match &args.perfetto {
        Some(_) => trace(out, client, args),
        None => list(out, client, args),
    }
}

fn list(out: &mut impl Write, client: &mut Client, args: &LogArgs) -> anyhow::Result<()> {
    let patience = if args.follow { FOLLOW } else { Duration::ZERO };
    let table = Table { epoch_ns: monotonic_epoch_ns() + client.start_ns() as i64 };
    if !args.json {
        table.head(out)?;
    }
    let mut next = args.since;
    loop {
        let page = client.log(next, LOG_MAX, patience)?;
        match (page.lost, args.json) {
            (0, _) => {}
            (lost, true) => writeln!(out, r#"{{"lost":{lost}}}"#)?,
            (lost, false) => writeln!(out, "{lost} older ones are not kept")?,
        }
        let is_end = page.next == next && !args.follow;
        for record in page.records.iter().chain(page.open.iter().filter(|_| is_end)) {
            match args.json {
                true => writeln!(out, "{}", serde_json::to_string(record)?)?,
                false => table.row(out, record)?,
            }
        }
        out.flush()?;
        if is_end {
            return Ok(());
        }
        next = page.next;
    }
}

struct Table {
    /// Nanoseconds since 1970 when the gate started.
    epoch_ns: i64,
}

impl Table {
    fn head(&self, out: &mut impl Write) -> std::io::Result<()> {
        let range = "RANGE";
        writeln!(
            out,
            "{:27} {:>7} {:14} {:>8} {:>8} {range:>20} {:>10} {:>9}  PHASES",
            "ARRIVED", "ID", "OP", "INO", "PID", "TOOK", "RESULT"
        )
    }

    fn row(&self, out: &mut impl Write, record: &Record) -> std::io::Result<()> {
        let Record { seq, op, ino, pid, offset, len, times, .. } = record;
        let range = match (offset, len) {
            (0, 0) => "-".to_owned(),
            _ => format!("{offset}..{}", offset.saturating_add(*len)),
        };
        let took = times.done.map_or_else(|| "-".to_owned(), |done| span(times.arrived, done));
        let result = match record.outcome {
            None if record.is_parked() => "parked".to_owned(),
            None => "in flight".to_owned(),
            Some(Outcome::Bytes(bytes)) => bytes.to_string(),
            Some(Outcome::Errno(number)) => errno::name(number),
            Some(Outcome::Dropped) => "dropped".to_owned(),
            Some(Outcome::Withdrawn) => "withdrawn".to_owned(),
        };
        writeln!(
            out,
            "{:27} {seq:>7} {op:14} {ino:>8} {pid:>8} {range:>20} {took:>10} {result:>9}  {}",
            self.wall(times.arrived),
            phases(record)
        )
    }

    /// To the microsecond.
    fn wall(&self, at_ns: u64) -> String {
        let since = self.epoch_ns + at_ns as i64;
        let (secs, nanos) = (since.div_euclid(1_000_000_000), since.rem_euclid(1_000_000_000));
        let text = utc(secs, nanos as u32);
        format!("{}Z", &text[..text.len() - 4])
    }
}

/// When each phase was reached after the arrival, and how the gate held the request there.
fn phases(record: &Record) -> String {
    let times = &record.times;
    let mut words = Vec::new();
    for (phase, at) in times.reached() {
        // All arrive; what it says of a request is only where it went from there.
        if phase != Phase::Received {
            words.push(format!("{phase} +{}", span(times.arrived, at)));
        }
        for hold in record.holds.iter().filter(|hold| hold.phase == phase) {
            let until = match (hold.released, hold.by) {
                (Some(released), Some(by)) => {
                    let by = format!("{by:?}").to_lowercase();
                    format!("for {}, let go by {by}", span(hold.parked, released))
                }
                _ => "since".to_owned(),
            };
            words.push(format!("parked at {phase} by rule {} {until}", hold.rule));
        }
    }
    let interrupted = times.interrupted.map(|at| span(times.arrived, at));
    words.extend(interrupted.map(|after| format!("interrupted +{after}")));
    words.extend(record.path.as_ref().map(|path| format!("by {path}")));
    words.join(", ")
}

/// A time between two, in the unit that people would take.
fn span(from_ns: u64, to_ns: u64) -> String {
    format!("{:.1?}", Duration::from_nanos(to_ns.saturating_sub(from_ns)))
}

fn trace(out: &mut impl Write, client: &mut Client, args: &LogArgs) -> anyhow::Result<()> {
    let Some(file) = &args.perfetto else { return Ok(()) };
    let name = || file.display().to_string();
    // Before anything is recorded: a trace that cannot be written is not worth waiting for.
    let output = std::fs::File::create(file).with_context(name)?;
    let (mut records, mut since) = (Vec::new(), args.since);
    let mut kernel = Vec::new();
    if let Some(life) = args.life {
        since = collect(client, since, &mut Vec::new())?;
        let recording = Recording::start();
        wait(life)?;
        collect(client, since, &mut records)?;
        match recording.and_then(Recording::finish) {
            Ok(events) => kernel = events,
            Err(e) => writeln!(out, "without the kernel's side: {e}")?,
        }
    } else {
        collect(client, since, &mut records)?;
    }
    let trace = perfetto::trace(&records, &kernel, client.start_ns());
    let mut output = std::io::BufWriter::new(output);
    serde_json::to_writer(&mut output, &trace).with_context(name)?;
    output.flush().with_context(name)?;
    // The kernel's tracepoints tell of all mounts; only those of this one are in the trace.
    let written = trace["traceEvents"].as_array().into_iter().flatten();
    let events = written.filter(|event| event["cat"] == "kernel").count();
    let requests = records.len();
    writeln!(out, "{}: {requests} requests, {events} events of the kernel", name())?;
    Ok(())
}

/// Adds all records from `since` on, those that are not finished included; the next `since`.
fn collect(client: &mut Client, since: u64, records: &mut Vec<Record>) -> anyhow::Result<u64> {
    let mut next = since;
    loop {
        let page = client.log(next, LOG_MAX, Duration::ZERO)?;
        records.extend(page.records);
        if page.next == next {
            records.extend(page.open);
            return Ok(next);
        }
        next = page.next;
    }
}

fn wait(life: Duration) -> anyhow::Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let end = Instant::now() + life;
    while !ended.load(Relaxed) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(GLANCE));
    }
    Ok(())
}
