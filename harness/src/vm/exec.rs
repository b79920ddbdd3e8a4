//! Runs any program under another kernel: what it writes, as it writes it, and its exit code.

use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{NOTHING, Options, clean, parts, start};
use crate::kit::interrupt;
use crate::kit::sys;
use crate::kit::verdict::{Stop, not_run};
use crate::run::INTERRUPTED;
use crate::vm::machine::Machine;
use crate::vm::message::{Job, Message, State};
use crate::vm::source::Source;
use crate::vm::watch::{Birth, Lost};

/// How often an interrupt is looked for.
const TICK: Duration = Duration::from_millis(100);

/// Runs a program, with its shared libraries and those `beside` it, in a folder that is an empty ext4, and gives its exit code; 4 when the machine
/// cannot be made, 1 when the kernel panicked under it.
///
/// # Errors
/// The machine was lost otherwise, or nothing was heard of it for `bound`.
pub fn exec(
    options: &Options,
    words: &[String],
    beside: &[String],
    bound: Duration,
) -> anyhow::Result<i32> {
    match attempt(options, words, beside, bound) {
        Err(error) if matches!(error.downcast_ref(), Some(Stop::NotRun(_))) => {
            eprintln!("inflight-race: not run: {error}");
            Ok(NOTHING)
        }
        other => other,
    }
}

fn attempt(
    options: &Options,
    words: &[String],
    beside: &[String],
    bound: Duration,
) -> anyhow::Result<i32> {
    let (program, arguments) = words.split_first().context("which program?")?;
    let file = find(program)?;
    let beside = beside.iter().map(|name| find(name)).collect::<anyhow::Result<_>>()?;
    interrupt::catch()?;
    let source = Source::find(&options.guest)?;
    let folder = tempfile::tempdir().context("a folder for the console")?;
    let words = [file.display().to_string()].into_iter().chain(arguments.iter().cloned());
    let job = Job::Program { words: words.collect(), beside };
    let parts = parts::of(&source, &options.guest, job, folder.path())?;
    let (machine, birth, remark) = start(&parts, options.accel)?;
    remark.iter().for_each(|remark| eprintln!("inflight-race: {remark}"));
    let ended = match birth {
        Birth::Up { kernel, .. } => {
            eprintln!("inflight-race: {} {}", kernel.release, kernel.build);
            follow(&machine, bound)
        }
        Birth::Unfit(reason) => {
            machine.end();
            return Err(not_run(reason));
        }
        Birth::Lost(lost) => Err(lost),
    };
    let complaint = machine.end();
    let console = clean(&parts.console)?;
    match ended {
        Ok(code) => Ok(code),
        Err(_) if console.contains("Kernel panic") => {
            print!("{}", report(&console));
            Ok(1)
        }
        Err(lost) => bail!(lost.reason(&console, complaint.as_deref())),
    }
}

/// A program by its path or its name.
fn find(program: &str) -> anyhow::Result<PathBuf> {
    let file = match program.contains('/') {
        true => Some(PathBuf::from(program)).filter(|file| file.is_file()),
        false => sys::find_program(program),
    };
    file.ok_or_else(|| not_run(format!("{program}: no such program")))
}

/// What the kernel said from the first sign of its end on.
fn report(console: &str) -> String {
    let signs = ["BUG:", "Oops", "KASAN", "Kernel panic", "general protection"];
    let begin = console.lines().position(|line| signs.iter().any(|sign| line.contains(sign)));
    console.lines().skip(begin.unwrap_or(0)).map(|line| format!("{line}\n")).collect()
}

fn follow(machine: &Machine, bound: Duration) -> Result<i32, Lost> {
    let mut end = Instant::now() + bound;
    while !interrupt::is_seen() {
        match machine.messages.recv_timeout(TICK) {
            Ok(Ok(Message::Guest(State::Wrote { line }))) => println!("{line}"),
            Ok(Ok(Message::Guest(State::Ended { code }))) => return Ok(code),
            Ok(Ok(other)) => return Err(Lost::Garbled(format!("{other:?}"))),
            Ok(Err(line)) => return Err(Lost::Garbled(line)),
            Err(RecvTimeoutError::Disconnected) => return Err(Lost::Gone),
            Err(RecvTimeoutError::Timeout) if Instant::now() < end => continue,
            Err(RecvTimeoutError::Timeout) => return Err(Lost::Silent(bound)),
        }
        end = Instant::now() + bound;
    }
    Ok(INTERRUPTED)
}

#[cfg(test)]
mod tests {
    use super::report;

    #[test]
    fn the_report_begins_where_the_kernel_began_to_die() {
        let console = "[1] up\n[2] BUG: KASAN: use-after-free\n[3] stack\n[4] Kernel panic\n";
        assert_eq!(report(console).lines().count(), 3);
        assert!(report(console).starts_with("[2] BUG"));
        assert_eq!(report("nothing\n"), "nothing\n");
    }
}
