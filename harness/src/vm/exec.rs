//! Runs any program under another kernel: what it writes, as it writes it, and its exit code.

use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{Options, parts, told, watched};
use crate::kit::interrupt;
use crate::kit::kmsg;
use crate::kit::sys;
use crate::kit::verdict::not_run;
use crate::run::INTERRUPTED;
use crate::vm::machine::Machine;
use crate::vm::message::{Job, Message, State};
use crate::vm::source::Source;
use crate::vm::watch::Lost;

/// How often an interrupt is looked for.
const TICK: Duration = Duration::from_millis(100);

/// Exit code when the kernel panicked under the program, as that of a run with harm.
const HARM: i32 = 1;

/// Runs a program, with its shared libraries and those `beside` it, in a folder that is an empty ext4 (a tmpfs where the
/// kernel or this machine has none), and gives its exit code: 1 when the kernel panicked under it, 4 when the machine cannot be made.
///
/// # Errors
/// The machine was lost otherwise, or nothing was heard of it for `bound`.
pub fn exec(
    options: &Options,
    words: &[String],
    beside: &[String],
    bound: Duration,
) -> anyhow::Result<i32> {
    told(attempt(options, words, beside, bound))
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
    let ended = watched(&parts, options.accel, |machine, up| {
        eprintln!("inflight-race: {} {}", up.kernel.release, up.kernel.build);
        up.lacks.iter().for_each(|lack| eprintln!("inflight-race: the guest lacks {lack}"));
        follow(machine, bound)
    })?;
    // A kernel that dies at boot says nothing of the program.
    let last_words = kmsg::last_words(&ended.console).filter(|_| ended.was_up);
    match (ended.result, last_words) {
        (Ok(code), _) => Ok(code),
        (Err(_), Some(report)) => {
            println!("{report}");
            Ok(HARM)
        }
        (Err(lost), None) => bail!(lost.reason(&ended.console, ended.complaint.as_deref())),
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
