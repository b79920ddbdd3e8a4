//! A system call in a thread of its own.
#![allow(unsafe_code)]

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;

use super::{Done, Io, Way};
use crate::verdict::Stop;

/// A call that is on its way.
#[derive(Debug)]
pub struct Call(Receiver<Done>);

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
        Ok(Call(receiver))
    }

    /// Whether it has not returned yet.
    pub fn finish(self, bound: Duration) -> anyhow::Result<Done> {
        match self.0.recv_timeout(bound) {
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

/// Starts the call, with the memory as one segment or as two.
pub(super) fn start(io: Io, segments: usize) -> anyhow::Result<Call> {
    let sent = Sent(io);
    Call::start(move || {
        let sent = sent;
        loop {
            match call(&sent.0, segments) {
                Err(Errno::EINTR) => {}
                done => return done,
            }
        }
    })
}

/// Makes the call in this thread, which it may block for ever.
pub fn here(io: &Io) -> Done {
    loop {
        match call(io, 1) {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// The system call itself.
pub(super) fn call(io: &Io, segments: usize) -> Done {
    let (fd, offset) = (io.fd, io.offset as i64);
    let half = io.len / 2;
    let vector = [(io.memory, half), (io.memory.wrapping_add(half), io.len - half)]
        .map(|(base, len)| libc::iovec { iov_base: base.cast(), iov_len: len });
    // SAFETY: the kernel checks the memory against our address space and answers EFAULT; that
    // it overwrites test memory is what it is there for. `vector` lives through the call.
    let count = unsafe {
        match (io.way, segments) {
            (Way::Read, 1) => libc::pread(fd, io.memory.cast(), io.len, offset),
            (Way::Write, 1) => libc::pwrite(fd, io.memory.cast(), io.len, offset),
            (Way::Read, _) => libc::preadv(fd, vector.as_ptr(), 2, offset),
            (Way::Write, _) => libc::pwritev(fd, vector.as_ptr(), 2, offset),
        }
    };
    Errno::result(count).map(|count| count as usize)
}
