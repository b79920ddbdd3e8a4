//! /dev/fuse.
#![allow(unsafe_code)]

use super::Link;
use super::intake::Intake;
use super::turn::Turn;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::{readv, writev};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

nix::ioctl_read!(
    /// `FUSE_DEV_IOC_CLONE`: makes a fresh /dev/fuse another one of the connection of the
    /// descriptor that it is given.
    clone, 229, 0, u32
);

/// A device of the same connection as `device`, with a queue of its own.
///
/// # Errors
/// open(2) of /dev/fuse; ioctl(2).
pub fn clone_device(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fresh = File::options().read(true).write(true).open("/dev/fuse")?;
    let mut source = device.as_raw_fd() as u32;
    // SAFETY: the ioctl reads one u32, which `source` is; both descriptors are open.
    unsafe { clone(fresh.as_raw_fd(), &mut source) }?;
    Ok(fresh.into())
}

#[derive(Debug)]
pub(super) struct Device {
    fd: OwnedFd,
    spin: Duration,
    intake: Option<Arc<Intake>>,
    /// Requests in a row that were there when they were looked for.
    at_once: AtomicUsize,
}

/// After so many in a row it is looked whether there are more.
const AT_ONCE_MAX: usize = 3;

impl Device {
    /// With a `spin` above zero, or an intake, the descriptor is made non-blocking; poll(2) waits then.
    pub(super) fn new(
        fd: OwnedFd,
        spin: Duration,
        intake: Option<Arc<Intake>>,
    ) -> io::Result<Device> {
        if !spin.is_zero() || intake.is_some() {
            let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
            fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        Ok(Device { fd, spin, intake, at_once: AtomicUsize::new(0) })
    }

    /// One read(2), which takes one request whole. EIO and EINVAL from it mean that the buffers
    /// are smaller than a request may be.
    fn read(&self, head: &mut [u8], tail: &mut [u8]) -> nix::Result<usize> {
        readv(&self.fd, &mut [IoSliceMut::new(head), IoSliceMut::new(tail)])
    }

    /// As [`Device::read`], when the intake lets it.
    fn take(&self, head: &mut [u8], tail: &mut [u8], turn: Option<&Turn>) -> nix::Result<usize> {
        match &self.intake {
            None => self.read(head, tail),
            Some(intake) => {
                let mut read = |head: &mut [u8], tail: &mut [u8]| self.read(head, tail);
                intake.take(self.fd.as_fd(), &mut read, (head, tail), turn)
            }
        }
    }
}

impl Link for Device {
    fn receive(&self, head: &mut [u8], tail: &mut [u8], turn: Option<&Turn>) -> io::Result<usize> {
        if self.spin.is_zero() && self.intake.is_none() {
            return Ok(self.read(head, tail)?);
        }
        match self.take(head, tail, turn) {
            Err(Errno::EAGAIN) => self.at_once.store(0, Ordering::Relaxed),
            other => {
                self.at_once.fetch_add(1, Ordering::Relaxed);
                return Ok(other?);
            }
        }
        loop {
            let until = Instant::now() + self.spin;
            while Instant::now() < until {
                // Whoever waits for this core goes first: it may be the client.
                std::thread::yield_now();
                match self.take(head, tail, turn) {
                    Err(Errno::EAGAIN) => {}
                    other => return Ok(other?),
                }
            }
            poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
            match self.take(head, tail, turn) {
                Err(Errno::EAGAIN) => {}
                other => return Ok(other?),
            }
        }
    }

    fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        // The device takes all or fails.
        writev(&self.fd, pieces)?;
        Ok(())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn is_aligned(&self) -> bool {
        true
    }

    fn is_behind(&self) -> bool {
        // One client that waits for each answer may be quick, but it never has a second request there.
        !self.spin.is_zero()
            && self.at_once.load(Ordering::Relaxed) >= AT_ONCE_MAX
            && poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
                == Ok(1)
    }
}
