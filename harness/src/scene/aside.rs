//! What runs in another thread, because it may have to wait for what is parked.

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{BOUND, PATIENCE, RENDEZVOUS, Scene};
use crate::event::Actor;
use crate::stacks::{self, Watch};
use crate::sys;
use crate::verdict::{Stop, no_proof, not_run};

impl Scene<'_> {
    /// Runs something that may block in a thread.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn aside<T: Send + 'static>(
        &mut self,
        what: &str,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<Aside<T>> {
        self.event(Actor::Racer, what);
        let (sender, receiver) = std::sync::mpsc::channel();
        let (say_thread, thread) = std::sync::mpsc::channel();
        let run = move || {
            say_thread.send(nix::unistd::gettid()).ok();
            sender.send(call()).ok();
        };
        std::thread::Builder::new().name("race-aside".to_owned()).spawn(run)?;
        let thread = thread.recv().context("a thread did not start")?.as_raw();
        Ok(Aside { what: what.to_owned(), thread, receiver, early: None })
    }

    /// Has the kernel compact all memory. That waits for pages under I/O, those that are parked and those of others: it
    /// is begun, and not waited for.
    ///
    /// # Errors
    /// NOTRUN without the right to; or as [`Aside::settle`].
    pub fn compact(&mut self) -> anyhow::Result<()> {
        const FILE: &str = "/proc/sys/vm/compact_memory";
        let refused = |error: io::Error| not_run(format!("{FILE}: {error}"));
        let mut file = File::options().write(true).open(FILE).map_err(refused)?;
        let mut compaction = self.aside("compaction", move || file.write_all(b"1"))?;
        let is_over = compaction.settle()?;
        if is_over {
            compaction.join()?.map_err(refused)?;
        }
        self.note(format!("compaction was over while the request was parked: {is_over}"));
        Ok(())
    }
}

/// Something that runs in another thread.
#[derive(Debug)]
pub struct Aside<T> {
    what: String,
    thread: i32,
    receiver: std::sync::mpsc::Receiver<T>,
    early: Option<T>,
}

impl<T> Aside<T> {
    /// Whether it returns by itself, although something is parked: waits for it up to [`PATIENCE`]. `false`
    /// means that it has to wait for what is parked; that costs a verdict, never makes a pass.
    ///
    /// # Errors
    /// The thread panicked.
    pub fn returns(&mut self) -> anyhow::Result<bool> {
        self.is_over(PATIENCE)
    }

    /// Whether it is over, waiting a moment for it.
    ///
    /// # Errors
    /// The thread panicked.
    pub fn is_over(&mut self, moment: Duration) -> anyhow::Result<bool> {
        use std::sync::mpsc::RecvTimeoutError;
        if self.early.is_some() {
            return Ok(true);
        }
        match self.receiver.recv_timeout(moment) {
            Ok(result) => {
                self.early = Some(result);
                Ok(true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("{} panicked", self.what),
        }
    }

    /// Waits until it is over, or waits for what is parked: for I/O on a file, on pages, or for a lock that I/O holds;
    /// `true` when it is over.
    ///
    /// # Errors
    /// It does neither: NOPROOF where it waits for something else, BROKEN where it does not wait.
    pub fn settle(&mut self) -> anyhow::Result<bool> {
        /// Between two looks.
        const MOMENT: Duration = Duration::from_millis(1);
        let (end, mut watch) = (Instant::now() + RENDEZVOUS, Watch::new(self.thread));
        while !self.is_over(MOMENT)? {
            if watch.waits() {
                return Ok(false);
            }
            if Instant::now() >= end {
                let (what, place) = (&self.what, self.place());
                return Err(match sys::state(watch.thread()) {
                    Some('R') | None => {
                        Stop::Broken(format!("{what} neither ends nor waits")).into()
                    }
                    _ => no_proof(format!("{what} waits for something else: {place}")),
                });
            }
        }
        Ok(true)
    }

    /// Where it waits: functions of the kernel, as far as we may know.
    pub fn place(&self) -> String {
        self.seen().unwrap_or_else(|| "where is not known".to_owned())
    }

    /// The same; nothing where we may not know.
    pub fn seen(&self) -> Option<String> {
        stacks::place(Watch::new(self.thread).thread())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// HANG when it does not end.
    pub fn join(self) -> anyhow::Result<T> {
        if let Some(result) = self.early {
            return Ok(result);
        }
        let hang = |_| Stop::Hang(format!("{} did not return in {BOUND:?}", self.what));
        Ok(self.receiver.recv_timeout(BOUND).map_err(hang)?)
    }
}
