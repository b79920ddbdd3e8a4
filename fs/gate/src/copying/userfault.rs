//! userfaultfd(2) for pages that are missing.
//!
//! Source: Documentation/admin-guide/mm/userfaultfd.rst, include/uapi/linux/userfaultfd.h.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

use super::page_size;

const API: u64 = 0xAA;
const REGISTER_MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;
/// Bytes of `struct uffd_msg`, and where in it the address of a fault is.
const MESSAGE: usize = 32;
const ADDRESS: usize = 16;

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`, without the answer of `struct uffdio_range`.
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
struct Zero {
    start: u64,
    len: u64,
    mode: u64,
    zeroed: i64,
}

nix::ioctl_readwrite!(uffdio_api, API, 0x3F, Api);
nix::ioctl_readwrite!(uffdio_register, API, 0x00, Register);
nix::ioctl_readwrite!(uffdio_copy, API, 0x03, Copy);
nix::ioctl_readwrite!(uffdio_zeropage, API, 0x04, Zero);

/// Where faults are reported and pages are brought.
#[derive(Debug)]
pub(super) struct Userfault(OwnedFd);

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Userfault {
    /// For the faults of system calls too, by userfaultfd(2) or, where that is refused, by /dev/userfaultfd (6.1).
    ///
    /// # Errors
    /// EPERM without CAP_SYS_PTRACE; ENOSYS.
    pub fn new() -> io::Result<Userfault> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the call takes flags and gives a descriptor, which is ours alone.
        let opened = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) });
        let fd = match opened {
            Ok(fd) => fd as i32,
            Err(errno) => by_device(flags).ok_or(errno)?,
        };
        // SAFETY: one of the two calls has just made this descriptor, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut api = Api { api: API, features: 0, ioctls: 0 };
        // SAFETY: the call reads and fills this struct.
        unsafe { uffdio_api(fd.as_raw_fd(), &raw mut api) }?;
        Ok(Userfault(fd))
    }

    /// Has faults of the page at `address` reported while it is missing.
    ///
    /// # Errors
    /// UFFDIO_REGISTER.
    pub fn register(&self, address: usize) -> io::Result<()> {
        let (start, len) = (address as u64, page_size() as u64);
        let mut register = Register { start, len, mode: REGISTER_MODE_MISSING, ioctls: 0 };
        // SAFETY: the call reads and fills this struct; the page is of a region of ours.
        unsafe { uffdio_register(self.0.as_raw_fd(), &raw mut register) }?;
        Ok(())
    }

    /// The page of the next fault.
    pub fn next(&self) -> Option<usize> {
        let mut message = [0; MESSAGE];
        match nix::unistd::read(&self.0, &mut message) {
            Ok(MESSAGE) if message[0] == EVENT_PAGEFAULT => {
                let address = message[ADDRESS..ADDRESS + 8].try_into().ok()?;
                Some(u64::from_ne_bytes(address) as usize & !(page_size() - 1))
            }
            _ => None,
        }
    }

    /// Brings the page at `address`, which is missing: these bytes, a page of them, or zeroes.
    ///
    /// # Errors
    /// UFFDIO_COPY, UFFDIO_ZEROPAGE. That it is there already is none.
    pub fn bring(&self, address: usize, bytes: Option<&[u8]>) -> nix::Result<()> {
        let (page, len) = (address as u64, page_size() as u64);
        loop {
            let done = match bytes {
                Some(bytes) => {
                    assert_eq!(bytes.len(), page_size());
                    let from = bytes.as_ptr() as u64;
                    let mut copy = Copy { to: page, from, len, mode: 0, copied: 0 };
                    // SAFETY: the call reads `bytes`, which is a page long, and fills the struct; the kernel refuses to
                    // write anywhere but to a missing page of a range that was registered here.
                    unsafe { uffdio_copy(self.0.as_raw_fd(), &raw mut copy) }
                }
                None => {
                    let mut zero = Zero { start: page, len, mode: 0, zeroed: 0 };
                    // SAFETY: the call fills the struct; where it may write is as with UFFDIO_COPY.
                    unsafe { uffdio_zeropage(self.0.as_raw_fd(), &raw mut zero) }
                }
            };
            match done {
                // The address space is being changed.
                Err(Errno::EAGAIN) => std::thread::yield_now(),
                Err(Errno::EEXIST) => return Ok(()),
                other => return other.map(drop),
            }
        }
    }
}

fn by_device(flags: libc::c_int) -> Option<libc::c_int> {
    let device = File::options().read(true).write(true).open("/dev/userfaultfd").ok()?;
    // SAFETY: the call takes flags and gives a descriptor.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, flags) }).ok()
}

/// `USERFAULTFD_IOC_NEW`, `_IO(0xAA, 0)`.
const USERFAULTFD_IOC_NEW: libc::c_ulong = 0xAA00;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copying::Region;

    #[test]
    fn a_system_call_waits_for_a_page_until_it_is_brought() {
        let faults = Userfault::new().expect("as root the kernel's faults can be handled");
        let size = page_size();
        let mut region = Region::new(3 * size).unwrap();
        region.write(0, &vec![1; size]);
        region.write(2 * size, &vec![3; size]);
        let hole = region.address(size);
        faults.register(hole).unwrap();
        let file = tempfile::tempfile().unwrap();
        let sent = std::thread::spawn({
            let file = file.try_clone().unwrap();
            move || std::os::unix::fs::FileExt::write_all_at(&file, region.as_slice(), 0)
        });
        let mut polled = [nix::poll::PollFd::new(faults.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut polled, 20_000u16).unwrap();
        assert_eq!(faults.next(), Some(hole));
        assert!(!sent.is_finished());
        faults.bring(hole, Some(&vec![2; size])).unwrap();
        sent.join().unwrap().unwrap();
        let mut seen = vec![0; 3 * size];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut seen, 0).unwrap();
        assert!(
            seen.chunks(size).zip([1, 2, 3]).all(|(page, byte)| page.iter().all(|b| *b == byte))
        );
    }
}
