//! The data of one reply on its way into pipe A.

use std::any::Any;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use inflight_dio::{Buffer, page_size};
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice, vmsplice};

use crate::mutant::{self, Mutant};
use crate::pipe::retry;
use crate::pool::PooledPipe;
use crate::zero::zero_page;

/// Why data could not be put into the pipe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FillError {
    /// The piece needs more slots than are left. Nothing of it was taken unless `done` says so.
    #[error("the pipe has no room for {wanted} slots, {free} are free; copy this reply")]
    Full {
        /// Slots needed.
        wanted: usize,
        /// Slots left.
        free: usize,
        /// Bytes of the piece that are in the pipe already.
        done: usize,
    },
    /// The pipe does not hold what was put into it.
    #[error("the pipe holds {found} bytes, {expected} were put into it")]
    Length {
        /// Sum of the pieces.
        expected: usize,
        /// FIONREAD.
        found: usize,
    },
    /// The kernel refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<FillError> for io::Error {
    fn from(e: FillError) -> Self {
        match e {
            FillError::Io(e) => e,
            full @ FillError::Full { .. } => Self::new(io::ErrorKind::WouldBlock, full),
            length @ FillError::Length { .. } => Self::other(length),
        }
    }
}

/// Memory and guards that must outlive the last splice of a reply.
pub(crate) type Held = Vec<Box<dyn Any + Send>>;

/// Pipe A while it is being filled, with pipe B that will carry the reply.
///
/// Both are taken at the start, so that a reply cannot be stuck for want of a second pipe when its
/// data is ready. Dropping it closes both pipes, then frees the memory.
pub struct Filling {
    // Declared, and so dropped, before `held`: the pipe lets go of the pages first.
    a: PooledPipe,
    b: PooledPipe,
    len: usize,
    slots: usize,
    slots_max: usize,
    held: Held,
}

/// Pipe A with data of a known length, ready for [`ReplyChannel::send`](crate::ReplyChannel::send).
pub struct Filled {
    pub(crate) a: PooledPipe,
    pub(crate) b: PooledPipe,
    len: usize,
    slots: usize,
    pub(crate) held: Held,
}

impl Filling {
    pub(crate) fn new(a: PooledPipe, b: PooledPipe, len_max: usize) -> Result<Self, FillError> {
        let slots_max = a.slots().min(b.slots().saturating_sub(1));
        let wanted = len_max.div_ceil(page_size());
        if wanted > slots_max {
            a.give_back();
            b.give_back();
            return Err(FillError::Full { wanted, free: slots_max, done: 0 });
        }
        Ok(Self { a, b, len: 0, slots: 0, slots_max, held: Vec::new() })
    }

    /// Bytes in the pipe so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in the pipe yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Slots that are left. A piece takes one for each page that it touches, whole or in part.
    pub fn slots_free(&self) -> usize {
        self.slots_max - self.slots
    }

    /// The buffered splice-read: page cache pages of `fd` from byte `offset` on, by reference.
    /// Returns the bytes taken; less than `len` only at the end of the file.
    ///
    /// The pages stay shared with the file: whatever is written to it before the reply is consumed,
    /// the reader sees. Reads the file if it is not cached, and blocks for that.
    ///
    /// # Errors
    /// [`FillError::Full`] before anything is done when the pages would not fit; later, with
    /// `done`, only if the kernel used more slots than pages. `EIO` and the like from splice(2).
    pub fn file(
        &mut self,
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
    ) -> Result<usize, FillError> {
        let page = page_size();
        self.need((offset as usize % page + len).div_ceil(page))?;
        let mut done = 0;
        while done < len {
            let mut at = libc::loff_t::try_from(offset + done as u64)
                .map_err(|_| io::Error::from(Errno::EINVAL))?;
            let moved = match retry(|| {
                let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
                splice(fd, Some(&mut at), self.a.writer(), None, len - done, flags)
            }) {
                Ok(0) => break,
                Ok(moved) => moved,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(FillError::Full { wanted: 1, free: 0, done });
                }
                Err(e) => return Err(e.into()),
            };
            let within = (offset as usize + done) % page;
            self.took(moved, (within + moved).div_ceil(page));
            done += moved;
        }
        Ok(done)
    }

    /// `len` bytes from byte `from` of `buf`, by reference (vmsplice(2), never gifted). The buffer
    /// is this reply's from now on and returns to its pool when the reply was consumed or dropped:
    /// memory in a pipe must not change.
    ///
    /// # Errors
    /// [`FillError::Full`] when the pages would not fit, or vmsplice(2). The buffer is then held
    /// all the same until the Filling is dropped.
    ///
    /// # Panics
    /// When the range is not inside the buffer's length.
    pub fn memory(&mut self, buf: Buffer, from: usize, len: usize) -> Result<(), FillError> {
        let range = from..from.checked_add(len).expect("a range inside the buffer");
        let page = page_size();
        let room = self.need((from % page + len).div_ceil(page));
        let result = room.and_then(|()| self.push(&[IoSlice::new(&buf.as_slice()[range])]));
        if !mutant::is(Mutant::EditAfterVmsplice) {
            self.held.push(Box::new(buf));
        }
        result
    }

    /// The broken way of `pipe_backed`: the pipe refers to `buf`, and the caller keeps it.
    #[cfg(feature = "pipe-backed")]
    pub(crate) fn lend(&mut self, buf: &Buffer, len: usize) -> Result<(), FillError> {
        self.need(1)?;
        self.push(&[IoSlice::new(&buf.as_slice()[..len])])
    }

    /// `len` zero bytes from the one zero page: a slot a page, no memory.
    ///
    /// # Errors
    /// [`FillError::Full`] when the pages would not fit, or vmsplice(2).
    pub fn zeros(&mut self, len: usize) -> Result<(), FillError> {
        let zero = zero_page()?;
        self.need(len.div_ceil(zero.len()))?;
        let mut slices = vec![IoSlice::new(zero); len / zero.len()];
        if !len.is_multiple_of(zero.len()) {
            slices.push(IoSlice::new(&zero[..len % zero.len()]));
        }
        self.push(&slices)
    }

    /// Keeps `guard` until the reply was consumed: pinned extents, range locks.
    pub fn hold(&mut self, guard: impl Any + Send) {
        self.held.push(Box::new(guard));
    }

    /// The end of the data: what is in the pipe is counted, and is what was put into it.
    ///
    /// # Errors
    /// [`FillError::Length`] when it is not; both pipes are closed then.
    pub fn finish(self) -> Result<Filled, FillError> {
        let found = self.a.len()?;
        if found != self.len {
            return Err(FillError::Length { expected: self.len, found });
        }
        let Self { a, b, len, slots, held, .. } = self;
        Ok(Filled { a, b, len, slots, held })
    }

    /// vmsplice(2) of all of `slices`.
    fn push(&mut self, slices: &[IoSlice<'_>]) -> Result<(), FillError> {
        let mut slices = slices.to_vec();
        let mut rest = slices.as_mut_slice();
        let mut done = 0;
        while rest.iter().any(|s| !s.is_empty()) {
            let batch = &rest[..rest.len().min(IOV_MAX)];
            let moved =
                match retry(|| vmsplice(self.a.writer(), batch, SpliceFFlags::SPLICE_F_NONBLOCK)) {
                    Ok(moved) => moved,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        return Err(FillError::Full { wanted: 1, free: 0, done });
                    }
                    Err(e) => return Err(e.into()),
                };
            self.took(moved, touched(rest, moved));
            IoSlice::advance_slices(&mut rest, moved);
            done += moved;
        }
        Ok(())
    }

    fn need(&self, wanted: usize) -> Result<(), FillError> {
        let free = self.slots_free();
        if wanted > free {
            return Err(FillError::Full { wanted, free, done: 0 });
        }
        Ok(())
    }

    fn took(&mut self, bytes: usize, slots: usize) {
        self.len += bytes;
        // The kernel, not this count, decides what fits: it only must not run below zero.
        self.slots = (self.slots + slots).min(self.slots_max);
    }
}

/// `UIO_MAXIOV` (include/uapi/linux/uio.h).
const IOV_MAX: usize = 1024;

/// Pages that the first `bytes` bytes of `slices` touch, counted for each slice.
fn touched(slices: &[IoSlice<'_>], mut bytes: usize) -> usize {
    let page = page_size();
    let mut pages = 0;
    for slice in slices {
        let part = slice.len().min(bytes);
        if part == 0 {
            break;
        }
        pages += (slice.as_ptr() as usize % page + part).div_ceil(page);
        bytes -= part;
    }
    pages
}

impl Filled {
    /// Bytes of data.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no data: a read at or past the end of the file.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps at most the first `len` bytes: the reply is shorter, and pipe A, which keeps the rest,
    /// is closed after it.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Slots of pipe A in use.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The end of the reply: pipes first, then what they referred to.
    pub(crate) fn retire(self, consumed: bool) {
        let Self { a, b, held, .. } = self;
        if consumed {
            a.give_back();
            b.give_back();
        } else {
            drop((a, b));
        }
        if mutant::is(Mutant::ForgetBufferRelease) {
            std::mem::forget(held);
        }
    }

    /// Pipe A, for tests that look into it.
    pub fn pipe(&self) -> &crate::Pipe {
        &self.a
    }
}

impl std::fmt::Debug for Filling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filling").field("len", &self.len).field("slots", &self.slots).finish()
    }
}

impl std::fmt::Debug for Filled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filled").field("len", &self.len).field("slots", &self.slots).finish()
    }
}
