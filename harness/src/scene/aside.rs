//! What runs in another thread, because it may have to wait for what is parked.

use std::time::Duration;

use anyhow::Context;

use super::{BOUND, PATIENCE, RENDEZVOUS, Scene};
use crate::event::Actor;
use crate::stacks;
use crate::verdict::Stop;

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

    /// Waits until it is over, or sits in the kernel and waits for something; `true` when it is over.
    ///
    /// # Errors
    /// It does neither: BROKEN.
    pub fn settle(&mut self) -> anyhow::Result<bool> {
        let end = std::time::Instant::now() + RENDEZVOUS;
        let stat = format!("/proc/self/task/{}/stat", self.thread);
        loop {
            if self.early.is_none() {
                self.early = self.receiver.try_recv().ok();
            }
            if self.early.is_some() {
                return Ok(true);
            }
            let text = std::fs::read_to_string(&stat).unwrap_or_default();
            let state = text.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
            if state == Some('D') || state == Some('S') && self.is_in_ring() {
                return Ok(false);
            }
            if std::time::Instant::now() >= end {
                return Err(Stop::Broken(format!("{} neither ends nor waits", self.what)).into());
            }
            std::thread::yield_now();
        }
    }

    /// Whether it stands in io_uring_register(2), which waits for requests as a signal may end it.
    fn is_in_ring(&self) -> bool {
        let call = std::fs::read_to_string(format!("/proc/self/task/{}/syscall", self.thread));
        let number = call.unwrap_or_default().split(' ').next().and_then(|word| word.parse().ok());
        number == Some(nix::libc::SYS_io_uring_register)
    }

    /// Where it waits: functions of the kernel, as far as we may know.
    pub fn place(&self) -> String {
        let pid = std::process::id().cast_signed();
        stacks::thread(pid, self.thread).unwrap_or_else(|| "where is not known".to_owned())
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
