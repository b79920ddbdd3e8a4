//! A pipe of our own, for splice.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::kit::sys;

/// Fill and drain never wait: a full or empty pipe is an error that is seen.
const NONBLOCK: u32 = libc::SPLICE_F_NONBLOCK;

/// Both ends of a pipe.
#[derive(Debug)]
pub struct Pipe {
    out: File,
    into: OwnedFd,
}

impl Pipe {
    /// A pipe that takes at least 64 pages.
    ///
    /// # Errors
    /// The pipe or its size is refused.
    pub fn new() -> anyhow::Result<Pipe> {
        let (out, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("pipe")?;
        let granted = fcntl(&into, FcntlArg::F_SETPIPE_SZ(256 << 10)).context("size of a pipe")?;
        anyhow::ensure!(granted >= 256 << 10, "the pipe takes only {granted} bytes");
        Ok(Pipe { out: File::from(out), into })
    }

    /// splice(2) from a file: from an offset, or from its position.
    ///
    /// It may bring less than is there: a buffered one what one readahead brought, a direct one the
    /// pages that the kernel got at once, and that is one where the lists of free pages are busy
    /// (`copy_splice_read` in fs/splice.c, `alloc_pages_bulk_noprof` in mm/page_alloc.c).
    ///
    /// # Errors
    /// The errno of the call.
    pub fn fill(&self, file: &File, offset: Option<i64>, len: usize) -> Result<usize, Errno> {
        let mut at = offset.unwrap_or(0);
        let at = offset.is_some().then_some(&mut at);
        sys::splice(file.as_raw_fd(), at, self.into.as_raw_fd(), len, NONBLOCK)
    }

    /// splice(2) of the first `len` bytes of a file, call after call.
    ///
    /// # Errors
    /// The errno of the first call.
    pub fn fill_all(&self, file: &File, len: usize) -> Result<usize, Errno> {
        sys::repeat(len, |at| self.fill(file, Some(at as i64), len - at))
    }

    /// write(2) of bytes that fit.
    ///
    /// # Errors
    /// The call failed.
    pub fn put(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let count = nix::unistd::write(&self.into, bytes).context("write to a pipe")?;
        anyhow::ensure!(count == bytes.len(), "a pipe took {count} of {} bytes", bytes.len());
        Ok(())
    }

    /// splice(2) into a file from an offset on.
    ///
    /// # Errors
    /// The errno of the call.
    pub fn pour(&self, file: &File, offset: i64, len: usize) -> Result<usize, Errno> {
        sys::splice_to(self.out.as_raw_fd(), file.as_raw_fd(), offset, len)
    }

    /// vmsplice(2) of memory.
    ///
    /// # Errors
    /// The errno of the call.
    pub fn gift(&self, memory: *const u8, len: usize) -> Result<usize, Errno> {
        sys::vmsplice(self.into.as_raw_fd(), memory, len)
    }

    /// Bytes in it.
    ///
    /// # Errors
    /// The errno of the call.
    pub fn held(&self) -> Result<usize, Errno> {
        sys::pipe_bytes(self.out.as_raw_fd())
    }

    /// Reads everything that is in it.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn drain(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; self.held().context("FIONREAD")?];
        self.out.read_exact(&mut bytes).context("read a pipe")?;
        Ok(bytes)
    }

    /// tee(2) of all of it into another pipe.
    ///
    /// # Errors
    /// The errno of the call.
    pub fn tee(&self, other: &Pipe, len: usize) -> Result<usize, Errno> {
        sys::tee(self.out.as_raw_fd(), other.into.as_raw_fd(), len)
    }

    /// Reads exactly so many bytes that are in it.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn read_exact(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        self.out.read_exact(bytes)
    }

    /// The end that is read from.
    pub fn out_fd(&self) -> i32 {
        self.out.as_raw_fd()
    }

    /// The end that is written to.
    pub fn into_fd(&self) -> i32 {
        self.into.as_raw_fd()
    }
}
