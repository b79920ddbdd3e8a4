//! Write protection by userfaultfd(2), which leaves the mapping's own protection as it is.
//!
//! Source: Documentation/admin-guide/mm/userfaultfd.rst, include/uapi/linux/userfaultfd.h (write protection of
//! anonymous memory: 5.7).
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::Context;
use nix::errno::Errno;

use super::Buffer;
use crate::kit::verdict::not_run;

pub(super) const API: u64 = 0xAA;
const FEATURE_PAGEFAULT_FLAG_WP: u64 = 1;
const REGISTER_MODE_WP: u64 = 2;
const WRITEPROTECT_MODE_WP: u64 = 1;
/// For those who may not handle the kernel's own faults (5.11).
const USER_MODE_ONLY: libc::c_int = 1;

/// `struct uffdio_api`.
#[repr(C)]
pub(super) struct Api {
    pub api: u64,
    pub features: u64,
    pub ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
pub(super) struct Register {
    pub start: u64,
    pub len: u64,
    pub mode: u64,
    pub ioctls: u64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
struct WriteProtect {
    start: u64,
    len: u64,
    mode: u64,
}

nix::ioctl_readwrite!(uffdio_api, API, 0x3F, Api);
nix::ioctl_readwrite!(uffdio_register, API, 0x00, Register);
nix::ioctl_readwrite!(uffdio_writeprotect, API, 0x06, WriteProtect);

/// A buffer that is registered for write protection, until this is dropped.
#[derive(Debug)]
pub struct Protector(OwnedFd);

impl Protector {
    /// Registers all of a buffer. Nothing is protected yet.
    ///
    /// # Errors
    /// NOTRUN where the kernel has no userfaultfd, none for write protection, or none for this user.
    pub fn new(buffer: &Buffer) -> anyhow::Result<Protector> {
        let fd = open_any()?;
        let mut api = Api { api: API, features: FEATURE_PAGEFAULT_FLAG_WP, ioctls: 0 };
        // SAFETY: the call reads and fills this struct.
        unsafe { uffdio_api(fd.as_raw_fd(), &raw mut api) }
            .map_err(|errno| not_run(format!("userfaultfd without write protection: {errno}")))?;
        let (start, len) = range(buffer);
        let mut register = Register { start, len, mode: REGISTER_MODE_WP, ioctls: 0 };
        // SAFETY: as above; it is a range of ours, whose contents stay.
        unsafe { uffdio_register(fd.as_raw_fd(), &raw mut register) }.context("UFFDIO_REGISTER")?;
        Ok(Protector(fd))
    }

    /// Takes write access to the buffer's pages away, or gives it back. A store in between waits for ever.
    ///
    /// # Errors
    /// Those of UFFDIO_WRITEPROTECT.
    pub fn protect(&self, buffer: &Buffer, on: bool) -> anyhow::Result<()> {
        let (start, len) = range(buffer);
        let mode = if on { WRITEPROTECT_MODE_WP } else { 0 };
        let mut protect = WriteProtect { start, len, mode };
        // SAFETY: as in `new`.
        unsafe { uffdio_writeprotect(self.0.as_raw_fd(), &raw mut protect) }
            .context("UFFDIO_WRITEPROTECT")?;
        Ok(())
    }
}

fn open(flags: libc::c_int) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes flags and gives a descriptor, which is ours alone.
    unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | flags);
        Errno::result(fd).map(|fd| OwnedFd::from_raw_fd(fd as i32))
    }
}

/// A descriptor, with the right to the kernel's own faults where this user has it.
pub(super) fn open_any() -> anyhow::Result<OwnedFd> {
    let fd = open(0).or_else(|_| open(USER_MODE_ONLY));
    fd.map_err(|errno| not_run(format!("userfaultfd: {errno}")))
}

pub(super) fn range(buffer: &Buffer) -> (u64, u64) {
    (buffer.ptr() as u64, buffer.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::memory::{Memory, PAGE};
    use crate::kit::pagemap::Pagemap;

    #[test]
    fn a_protected_page_is_marked_until_it_is_not() {
        /// Bit 57 of pagemap: the page is write-protected by userfaultfd (5.14).
        const WP: u64 = 1 << 57;
        let buffer = Buffer::new(Memory::Anon, PAGE).unwrap();
        let protector = Protector::new(&buffer).unwrap();
        let marked =
            || Pagemap::of("self").unwrap().entry(buffer.ptr() as usize).unwrap() & WP != 0;
        assert!(!marked());
        protector.protect(&buffer, true).unwrap();
        assert!(marked());
        protector.protect(&buffer, false).unwrap();
        assert!(!marked());
        buffer.store(0, 1);
        assert_eq!(buffer.load(0), 1);
    }
}
