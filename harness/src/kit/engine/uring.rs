//! io_uring: plain and fixed reads and writes.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, ensure};
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use nix::errno::Errno;

use super::{Done, Io, Way};
use crate::kit::verdict::not_run;

/// A ring.
pub struct Ring {
    ring: IoUring,
    registered: bool,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("registered", &self.registered).finish_non_exhaustive()
    }
}

impl Ring {
    /// Makes a ring for 64 requests.
    pub fn new() -> anyhow::Result<Ring> {
        match IoUring::new(64) {
            Ok(ring) => Ok(Ring { ring, registered: false }),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                Err(not_run(format!("io_uring is refused here: {error}")))
            }
            // Before 5.12 the ring itself counted as locked.
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                let limit = crate::kit::memlock::limit().map(not_run);
                Err(limit.unwrap_or_else(|| anyhow::Error::from(error).context("io_uring_setup")))
            }
            Err(error) => Err(error).context("io_uring_setup"),
        }
    }

    /// Submits one request.
    pub fn submit(&mut self, io: Io, cookie: u64, fixed: bool) -> anyhow::Result<()> {
        ensure!(!fixed || self.registered, "a fixed request without a registered buffer");
        let (fd, len) = (Fd(io.fd), io.len as u32);
        let entry = match (io.way, fixed) {
            (Way::Read, false) => opcode::Read::new(fd, io.memory, len).offset(io.offset).build(),
            (Way::Write, false) => opcode::Write::new(fd, io.memory, len).offset(io.offset).build(),
            (Way::Read, true) => {
                opcode::ReadFixed::new(fd, io.memory, len, 0).offset(io.offset).build()
            }
            (Way::Write, true) => {
                opcode::WriteFixed::new(fd, io.memory, len, 0).offset(io.offset).build()
            }
        };
        // A thread of the kernel's does the work even where it could be tried at once: submission
        // must never block on a parked request.
        let entry = entry.user_data(cookie).flags(io_uring::squeue::Flags::ASYNC);
        // SAFETY: the kernel checks the memory when it is used; that it is written behind our back is
        // the purpose, see `memory::Buffer`.
        unsafe { self.ring.submission().push(&entry) }.context("the ring is full")?;
        self.ring.submit().context("io_uring_enter")?;
        Ok(())
    }

    /// Submits a request that cancels the one with the cookie `target`.
    pub fn cancel(&mut self, target: u64, cookie: u64) -> anyhow::Result<()> {
        let entry = opcode::AsyncCancel::new(target).build().user_data(cookie);
        // SAFETY: it has no memory.
        unsafe { self.ring.submission().push(&entry) }.context("the ring is full")?;
        self.ring.submit().context("io_uring_enter")?;
        Ok(())
    }

    /// Moves finished requests to `done`; `false` when none finished within the bound.
    pub fn reap(
        &mut self,
        done: &mut BTreeMap<u64, Done>,
        bound: Duration,
    ) -> anyhow::Result<bool> {
        let timeout = Timespec::from(bound);
        let arguments = SubmitArgs::new().timespec(&timeout);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => return Ok(true),
            Err(error) => return Err(error).context("io_uring_enter"),
        }
        Ok(self.take(done))
    }

    /// Moves what has finished to `done`, without a system call; `false` when nothing had.
    pub fn take(&mut self, done: &mut BTreeMap<u64, Done>) -> bool {
        let mut any = false;
        for event in self.ring.completion() {
            any = true;
            let result = match event.result() {
                count if count >= 0 => Ok(count as usize),
                errno => Err(Errno::from_raw(-errno)),
            };
            done.insert(event.user_data(), result);
        }
        any
    }

    /// Registers one buffer, replacing the last.
    pub fn register(&mut self, memory: *mut u8, len: usize) -> Result<(), Errno> {
        if std::mem::take(&mut self.registered) {
            let _ = self.ring.submitter().unregister_buffers();
        }
        let vector = [libc::iovec { iov_base: memory.cast(), iov_len: len }];
        // SAFETY: the kernel pins the pages itself; a case that unmaps them does so on purpose.
        let registered = unsafe { self.ring.submitter().register_buffers(&vector) };
        let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
        registered.map_err(errno)?;
        self.registered = true;
        Ok(())
    }

    /// Takes the registration back.
    pub fn unregister(&mut self) -> anyhow::Result<()> {
        self.unregister_elsewhere()?()
    }

    /// A call that takes the registration back, for another thread: older kernels wait in it for what is in flight.
    /// The ring must live until the call has returned.
    pub fn unregister_elsewhere(
        &mut self,
    ) -> anyhow::Result<impl FnOnce() -> anyhow::Result<()> + use<>> {
        ensure!(std::mem::take(&mut self.registered), "no buffer is registered");
        let fd = self.ring.as_raw_fd();
        Ok(move || {
            const UNREGISTER_BUFFERS: libc::c_uint = 1;
            let none = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: integers and a null pointer; the operation has no argument.
            let result = unsafe {
                libc::syscall(libc::SYS_io_uring_register, fd, UNREGISTER_BUFFERS, none, 0)
            };
            Errno::result(result).context("unregister buffers").map(drop)
        })
    }
}

/// Submits in a ring of its own, which ends with the process; see [`super::start_alone`]. The crate makes rings
/// and requests without the heap.
pub(super) fn submit_alone(io: &Io, fixed: bool) {
    let Ok(ring) = IoUring::new(8) else { return };
    let mut ring = Ring { ring, registered: false };
    if !fixed || ring.register(io.memory, io.len).is_ok() {
        let _ = ring.submit(*io, 1, fixed);
    }
    std::mem::forget(ring);
}
