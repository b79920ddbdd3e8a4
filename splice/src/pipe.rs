//! An owned pipe whose size was looked at, not assumed.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use inflight_dio::page_size;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

nix::ioctl_read_bad!(fionread, libc::FIONREAD, libc::c_int);

/// Both ends of a pipe(7), close-on-exec and non-blocking.
///
/// A pipe holds *slots*, not bytes: a partly filled page takes a slot like a full one.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    slots: usize,
}

impl Pipe {
    /// A pipe of the default size: 16 slots (64 KiB with 4 KiB pages), or 2 when the user is over
    /// `/proc/sys/fs/pipe-user-pages-soft`.
    ///
    /// # Errors
    /// pipe2(2): `EMFILE`, `ENFILE`.
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let slots = granted(&write)?;
        Ok(Self { read, write, slots })
    }

    /// A pipe of at least `bytes` where that is granted, else the largest that is. Ask
    /// [`Pipe::slots`] or [`Pipe::fits`] what came.
    ///
    /// F_SETPIPE_SZ (fcntl(2)) rounds up to a power of two of pages, and refuses more than
    /// `/proc/sys/fs/pipe-max-size` (1 MiB) without `CAP_SYS_RESOURCE`, and any growth to a user
    /// over `pipe-user-pages-soft`. A caller that does not look fills its own pipe and waits for
    /// ever.
    ///
    /// # Errors
    /// As [`Pipe::new`].
    pub fn with_capacity(bytes: usize) -> io::Result<Self> {
        let mut pipe = Self::new()?;
        let mut want = bytes.min(1 << 30);
        while want > pipe.capacity() {
            match fcntl(&pipe.write, FcntlArg::F_SETPIPE_SZ(want as libc::c_int)) {
                Ok(_) => {
                    pipe.slots = granted(&pipe.write)?;
                    break;
                }
                Err(_) => want = want.next_power_of_two() / 2,
            }
        }
        Ok(pipe)
    }

    /// Slots, each for one page or a part of one.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Bytes when every slot holds a full page.
    pub fn capacity(&self) -> usize {
        self.slots * page_size()
    }

    /// Whether `pages` whole or partial pages fit an empty pipe.
    pub fn fits(&self, pages: usize) -> bool {
        pages <= self.slots
    }

    /// Bytes in the pipe (`FIONREAD`).
    ///
    /// # Errors
    /// ioctl(2); not seen on a pipe.
    pub fn len(&self) -> io::Result<usize> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: FIONREAD stores one int, which `bytes` is; the fd is ours and open.
        unsafe { fionread(self.read.as_raw_fd(), &mut bytes) }?;
        Ok(bytes as usize)
    }

    /// Whether nothing is in the pipe.
    ///
    /// # Errors
    /// As [`Pipe::len`].
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The end to read from.
    pub fn reader(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// The end to write to.
    pub fn writer(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }

    /// Moves up to `len` bytes into `sink` with one splice(2), never `SPLICE_F_MOVE`. Interrupted
    /// calls are repeated.
    ///
    /// # Errors
    /// splice(2), or what the sink says.
    pub fn splice_to(&self, sink: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
        retry(|| splice(&self.read, None, sink, None, len, SpliceFFlags::SPLICE_F_NONBLOCK))
    }
}

/// The system call again for as long as a signal interrupts it.
pub(crate) fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(nix::errno::Errno::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

fn granted(end: &OwnedFd) -> io::Result<usize> {
    let bytes = fcntl(end, FcntlArg::F_GETPIPE_SZ)?;
    Ok(usize::try_from(bytes).unwrap_or(0) / page_size())
}
