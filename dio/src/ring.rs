//! The io_uring instance that holds the pool's registration.
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use io_uring::IoUring;

use crate::mapping::{Mapping, SLAB};

/// Submission queue entries of a ring; the completion queue is twice as long (io_uring_setup(2)).
pub(crate) const DEPTH: u32 = 256;

/// A ring with the first `registered` slabs of a pool as its fixed buffers 0..registered.
///
/// Registration is `FOLL_PIN | FOLL_LONGTERM` on every page (io_uring/rsrc.c,
/// `io_pin_pages`): the pages stay where they are, and a fork copies them for the child at once.
pub(crate) struct Ring {
    pub(crate) uring: IoUring,
    registered: usize,
    claimed: AtomicBool,
}

impl Ring {
    /// A ring without fixed buffers.
    ///
    /// # Errors
    /// `EPERM` when kernel.io_uring_disabled forbids it, `ENOSYS` on a kernel without io_uring or
    /// under a seccomp filter, `ENOMEM` when memlock is exhausted (Linux before 5.12).
    pub(crate) fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_clamp().dontfork();
        let mut cooperative = builder.clone();
        // Completions wait until the thread enters the kernel anyway (Linux 5.19).
        cooperative.setup_coop_taskrun();
        let uring = match cooperative.build(DEPTH) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => builder.build(DEPTH)?,
            built => built?,
        };
        Ok(Self { uring, registered: 0, claimed: AtomicBool::new(false) })
    }

    /// Registers as many slabs of `memory` as the memlock limit lets through, and returns how many.
    ///
    /// # Errors
    /// What io_uring_register(2) said when not even one slab could be registered.
    pub(crate) fn register(&mut self, memory: &Mapping) -> io::Result<usize> {
        let all = memory.len() / SLAB;
        let (mut good, mut bad, mut want) = (0, all + 1, all);
        loop {
            match self.try_register(memory, want) {
                Ok(()) => good = want,
                Err(e) if e.raw_os_error() == Some(libc::ENOMEM) && want > 1 => bad = want,
                Err(e) => return Err(e),
            }
            if self.registered > 0 && good + 1 == bad {
                return Ok(good);
            }
            self.unregister();
            want = if good + 1 == bad { good } else { good.midpoint(bad) };
        }
    }

    fn try_register(&mut self, memory: &Mapping, count: usize) -> io::Result<()> {
        let slabs: Vec<libc::iovec> = (0..count)
            .map(|i| libc::iovec { iov_base: memory.at(i * SLAB).as_ptr().cast(), iov_len: SLAB })
            .collect();
        // SAFETY: every iovec lies inside `memory`. The pool that owns both drops the ring (which
        // unregisters) before the mapping.
        unsafe { self.uring.submitter().register_buffers(&slabs) }?;
        self.registered = count;
        Ok(())
    }

    fn unregister(&mut self) {
        if self.registered > 0 {
            let _ = self.uring.submitter().unregister_buffers();
            self.registered = 0;
        }
    }

    /// Slabs that are fixed buffers of this ring.
    pub(crate) fn registered(&self) -> usize {
        self.registered
    }

    /// Makes the caller the one user of the queues. False when somebody is already.
    pub(crate) fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn release(&self) {
        self.claimed.store(false, Ordering::Release);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Closing the ring would unpin too, but later and from a kernel worker: whoever dropped
        // the pool may look at nr_foll_pin_released next.
        self.unregister();
    }
}
