//! Watching a guest: until it is up, and then until its run has ended or it was lost.

use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::kit::interrupt;
use crate::mechanisms::Shown;
use crate::run::Runner;
use crate::run::worker::Line;
use crate::vm::machine::Machine;
use crate::vm::message::{Message, State, Up};

/// How often an interrupt is looked for.
const TICK: Duration = Duration::from_millis(100);

/// What the guest's own runner may need to clean up after a worker that was lost, on top of twice a variant's bound.
const GRACE: Duration = Duration::from_secs(10);

/// Within this a kernel has written its first line to the console, where a processor executes it.
const FIRST_LINE: Duration = Duration::from_secs(3);

/// What came of booting.
#[derive(Clone, Debug)]
pub enum Birth {
    /// The guest is up and runs the plan.
    Up(Up),
    /// It cannot run anything; why.
    Unfit(String),
    /// It did not come up.
    Lost(Lost),
}

/// How a guest was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The machine ended by itself.
    Gone,
    /// Nothing was heard of it for so long.
    Silent(Duration),
    /// It sent something that is no message.
    Garbled(String),
    /// Its run ended early, with this exit code.
    Early(i32),
}

impl Lost {
    /// What happened in one line, with the help of the guest's console and of what QEMU complained about.
    pub fn reason(&self, console: &str, complaint: Option<&str>) -> String {
        let panic = console.lines().find(|line| line.contains("Kernel panic"));
        let unfit = console.lines().find(|line| line.starts_with("inflight-race: "));
        match (self, panic, unfit) {
            (Lost::Garbled(line), ..) => {
                let start: String = line.chars().take(60).collect();
                format!("a line from the guest was cut or garbled: '{start}'")
            }
            (_, Some(panic), _) => format!("the guest panicked: {}", panic.trim()),
            (_, None, Some(unfit)) => unfit.trim_start_matches("inflight-race: ").to_owned(),
            (Lost::Silent(time), ..) => format!("nothing was heard of the guest for {time:?}"),
            (Lost::Early(code), ..) => format!("the run in the guest ended with exit code {code}"),
            (Lost::Gone, ..) => match complaint {
                Some(complaint) => format!("the machine ended: {complaint}"),
                None => "the machine ended".to_owned(),
            },
        }
    }
}

/// Waits for the first word of a guest, or for an interrupt.
pub fn birth(machine: &Machine, bound: Duration) -> Birth {
    let end = Instant::now() + bound;
    loop {
        let message = machine.messages.recv_timeout(TICK);
        let is_over = Instant::now() >= end || interrupt::is_seen();
        if is_over || !matches!(message, Err(RecvTimeoutError::Timeout)) {
            return born(message, bound);
        }
    }
}

/// The same where it may well be that nothing is executed at all: then the console stays empty.
pub fn trial(machine: &Machine, console: &Path, bound: Duration) -> Birth {
    let first = machine.messages.recv_timeout(FIRST_LINE);
    let speaks = console.metadata().is_ok_and(|console| console.len() > 0);
    match first {
        Err(RecvTimeoutError::Timeout) if speaks => birth(machine, bound),
        other => born(other, FIRST_LINE),
    }
}

fn born(message: Result<Result<Message, String>, RecvTimeoutError>, bound: Duration) -> Birth {
    match message {
        Ok(Ok(Message::Guest(State::Up(up)))) => Birth::Up(up),
        Ok(Ok(Message::Guest(State::Unfit { reason }))) => Birth::Unfit(reason),
        Ok(Ok(other)) => Birth::Lost(Lost::Garbled(format!("{other:?}"))),
        Ok(Err(line)) => Birth::Lost(Lost::Garbled(line)),
        Err(RecvTimeoutError::Timeout) => Birth::Lost(Lost::Silent(bound)),
        Err(RecvTimeoutError::Disconnected) => Birth::Lost(Lost::Gone),
    }
}

/// Follows the run of a guest until it has ended or was interrupted, or the guest was lost.
///
/// # Errors
/// The results cannot be written.
pub(crate) fn follow(
    runner: &mut Runner,
    machine: &Machine,
    slowness: u32,
) -> anyhow::Result<Option<Lost>> {
    let bound = slowness * 2 * runner.order.bound + GRACE;
    let mut end = Instant::now() + bound;
    while !runner.is_interrupted() {
        let message = match machine.messages.recv_timeout(TICK) {
            Ok(Ok(message)) => message,
            Ok(Err(line)) => return Ok(Some(Lost::Garbled(line))),
            Err(RecvTimeoutError::Disconnected) => return Ok(Some(Lost::Gone)),
            Err(RecvTimeoutError::Timeout) if Instant::now() < end => continue,
            Err(RecvTimeoutError::Timeout) => return Ok(Some(Lost::Silent(bound))),
        };
        end = Instant::now() + bound;
        match message {
            Message::Run(line @ Line::Started { .. }) => runner.start(&line)?,
            Message::Run(Line::Finished { number, played, .. }) => {
                match runner.queue.front().cloned() {
                    Some(item) if item.number == number => {
                        runner.queue.pop_front();
                        runner.settle(&item, *played)?;
                    }
                    _ => return Ok(Some(Lost::Garbled(format!("a result for item {number}")))),
                }
            }
            Message::Guest(State::Ended { code: 0 }) if runner.queue.is_empty() => return Ok(None),
            Message::Guest(State::Ended { code }) => return Ok(Some(Lost::Early(code))),
            other => return Ok(Some(Lost::Garbled(format!("{other:?}")))),
        }
    }
    Ok(None)
}

/// Waits for the mechanisms that a guest shows.
pub fn shown(machine: &Machine, bound: Duration) -> Result<Shown, Lost> {
    match machine.messages.recv_timeout(bound) {
        Ok(Ok(Message::Mechanisms(shown))) => Ok(shown),
        Ok(Ok(Message::Guest(State::Ended { code }))) => Err(Lost::Early(code)),
        Ok(Ok(other)) => Err(Lost::Garbled(format!("{other:?}"))),
        Ok(Err(line)) => Err(Lost::Garbled(line)),
        Err(RecvTimeoutError::Timeout) => Err(Lost::Silent(bound)),
        Err(RecvTimeoutError::Disconnected) => Err(Lost::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_best_that_is_known() {
        let console = "[ 1.0] x\n[ 2.0] Kernel panic - not syncing: Fatal exception\n[ 2.1] y\n";
        let panicked = "the guest panicked: [ 2.0] Kernel panic - not syncing: Fatal exception";
        assert_eq!(Lost::Gone.reason(console, Some("qemu: x")), panicked);
        assert_eq!(Lost::Gone.reason("", Some("qemu: no")), "the machine ended: qemu: no");
        assert_eq!(
            Lost::Silent(Duration::from_secs(5)).reason("", None),
            "nothing was heard of the guest for 5s"
        );
        let cut = Lost::Garbled("{\"line\":\"fin".to_owned()).reason(console, None);
        assert_eq!(cut, "a line from the guest was cut or garbled: '{\"line\":\"fin'");
        assert_eq!(
            Lost::Early(101).reason("", None),
            "the run in the guest ended with exit code 101"
        );
    }
}
