//! A system call in a thread of its own.
#![allow(unsafe_code)]

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;

use super::{Done, Engine, Io, Way};
use crate::kit::verdict::Stop;

/// A call that is on its way.
#[derive(Debug)]
pub struct Call {
    receiver: Receiver<Done>,
    early: Option<Done>,
}

impl Call {
    /// Runs `call` in a thread.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(call: impl FnOnce() -> Done + Send + 'static) -> anyhow::Result<Call> {
        let (sender, receiver) = channel();
        std::thread::Builder::new()
            .name("race-call".to_owned())
            .spawn(move || sender.send(call()).ok())
            .context("start a thread")?;
        Ok(Call { receiver, early: None })
    }

    /// Whether it has returned.
    pub fn is_over(&mut self) -> bool {
        self.early = self.early.take().or_else(|| self.receiver.try_recv().ok());
        self.early.is_some()
    }

    /// Whether it has returned with an error, as far as [`Call::is_over`] saw.
    pub fn failed(&self) -> bool {
        matches!(self.early, Some(Err(_)))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Stop::Hang`] when it does not return within the bound.
    pub fn finish(self, bound: Duration) -> anyhow::Result<Done> {
        if let Some(done) = self.early {
            return Ok(done);
        }
        match self.receiver.recv_timeout(bound) {
            Ok(done) => Ok(done),
            Err(RecvTimeoutError::Timeout) => {
                Err(Stop::Hang(format!("a system call did not return in {bound:?}")).into())
            }
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("a calling thread panicked"),
        }
    }
}

/// An [`Io`] on its way to another thread.
pub(super) struct Sent(pub Io);

// SAFETY: the pointer inside is never dereferenced by us, only handed to the kernel, which checks it.
unsafe impl Send for Sent {}

/// Starts the call of one of the engines that are calls.
pub(super) fn start(io: Io, engine: Engine) -> anyhow::Result<Call> {
    let sent = Sent(io);
    Call::start(move || {
        let sent = sent;
        loop {
            match call(&sent.0, engine) {
                Err(Errno::EINTR) => {}
                done => return done,
            }
        }
    })
}

/// A call, by pread(2) or pwrite(2), for a thread that may be interrupted: EINTR is told.
pub fn once(io: Io) -> impl FnOnce() -> Done + Send + use<> {
    let sent = Sent(io);
    move || {
        let sent = sent;
        call(&sent.0, Engine::Pread)
    }
}

/// Makes the call in this thread, which it may block for ever.
pub fn here(io: &Io) -> Done {
    loop {
        match call(io, Engine::Pread) {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// The call itself.
pub(super) fn call(io: &Io, engine: Engine) -> Done {
    let (fd, offset) = (io.fd, io.offset as i64);
    if matches!(engine, Engine::Read | Engine::Readv) {
        // SAFETY: no memory operands.
        Errno::result(unsafe { libc::lseek(fd, offset, libc::SEEK_SET) })?;
    }
    let half = io.len / 2;
    let halves = [(io.memory, half), (io.memory.wrapping_add(half), io.len - half)]
        .map(|(base, len)| libc::iovec { iov_base: base.cast(), iov_len: len });
    let whole = libc::iovec { iov_base: io.memory.cast(), iov_len: io.len };
    let is_read = io.way == Way::Read;
    // SAFETY: the kernel checks the memory against our address space and answers EFAULT; that
    // it overwrites test memory is what it is there for. The vectors live through the call.
    let count = unsafe {
        match (engine, engine.flags()) {
            (Engine::Preadv, _) if is_read => libc::preadv(fd, halves.as_ptr(), 2, offset),
            (Engine::Preadv, _) => libc::pwritev(fd, halves.as_ptr(), 2, offset),
            (Engine::Read, _) if is_read => libc::read(fd, io.memory.cast(), io.len),
            (Engine::Read, _) => libc::write(fd, io.memory.cast(), io.len),
            (Engine::Readv, _) if is_read => libc::readv(fd, halves.as_ptr(), 2),
            (Engine::Readv, _) => libc::writev(fd, halves.as_ptr(), 2),
            (_, Some(flags)) if is_read => libc::preadv2(fd, &raw const whole, 1, offset, flags),
            (_, Some(flags)) => libc::pwritev2(fd, &raw const whole, 1, offset, flags),
            (_, None) if is_read => libc::pread(fd, io.memory.cast(), io.len, offset),
            (_, None) => libc::pwrite(fd, io.memory.cast(), io.len, offset),
        }
    };
    Errno::result(count).map(|count| count as usize)
}
