//! I/O iterators: where the bytes of a transfer are, and how far it has come.
//!
//! The kinds are those of the kernel's `struct iov_iter` (include/linux/uio.h) after `ITER_PIPE`
//! was removed. There is no pipe kind on purpose: a pipe-backed iterator allocates its pages as it
//! goes and has to take them back when a read comes out short. An iterator here only ever moves
//! forward, by what was transferred, over memory that existed before.

mod cache;
mod extract;
mod pins;
mod span;
mod walk;
mod walkers;

pub use cache::{MissingPage, PageMap};
pub use extract::{Borrowed, Extraction, PinBackend, PinToken, Pinned};
pub use pins::{BestPins, KernelPins, MlockPins, RingPins};
pub use span::{PageRange, Span};
pub use walkers::{BioVec, crc32c, receive, send, to_bvecs, to_iovecs};

use crate::engine::Part;

/// What backs an iterator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IterKind {
    /// One range of somebody else's memory.
    Ubuf,
    /// Several ranges of somebody else's memory.
    Iovec,
    /// Ranges of buffers, which their owner keeps.
    Bvec,
    /// Ranges of our own heap, which the borrow keeps.
    Kvec,
    /// Pages of a cache, by index.
    Xarray,
}

impl IterKind {
    /// Whether the memory belongs to a user of this code, who may unmap, fork or reuse it, so that
    /// extraction has to pin it (`user_backed_iter`, include/linux/uio.h).
    pub fn is_user_backed(self) -> bool {
        matches!(self, Self::Ubuf | Self::Iovec)
    }
}

/// The iterator's memory cannot be written: it was made from a shared slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {0:?} iterator is over memory that may only be read")]
pub struct ReadOnly(pub IterKind);

/// A position in a list of memory ranges.
///
/// It borrows the memory for `'a`, so nothing else touches it; it is not `Clone` for the same
/// reason.
///
/// ```
/// use inflight_dio::iter::IoIter;
/// let (mut head, mut tail) = ([0; 3], [0; 5]);
/// let mut iter = IoIter::iovec([&mut head[..], &mut tail[..]]);
/// iter.advance(1);
/// assert_eq!(iter.copy_from(b"abcd")?, 4);
/// assert_eq!(iter.remaining(), 3);
/// assert_eq!((&head, &tail), (b"\0ab", b"cd\0\0\0"));
/// # Ok::<(), inflight_dio::iter::ReadOnly>(())
/// ```
#[derive(Debug)]
pub struct IoIter<'a> {
    kind: IterKind,
    spans: Vec<Span<'a>>,
    /// The current span, and the bytes of it that are behind us.
    at: usize,
    skip: usize,
    remaining: usize,
}

impl<'a> IoIter<'a> {
    /// One range of user memory (`&mut [u8]` to be filled, `&[u8]` only to be read from).
    pub fn ubuf(range: impl Into<Span<'a>>) -> Self {
        Self::over(IterKind::Ubuf, vec![range.into()])
    }

    /// Several ranges of user memory.
    pub fn iovec<S: Into<Span<'a>>>(ranges: impl IntoIterator<Item = S>) -> Self {
        Self::over(IterKind::Iovec, ranges.into_iter().map(Into::into).collect())
    }

    /// Ranges of buffers, to be filled.
    pub fn bvec(parts: &'a mut [Part]) -> Self {
        Self::over(IterKind::Bvec, parts.iter_mut().map(Into::into).collect())
    }

    /// Ranges of buffers, to be read from.
    pub fn bvec_source(parts: &'a [Part]) -> Self {
        Self::over(IterKind::Bvec, parts.iter().map(Into::into).collect())
    }

    /// Ranges of our own heap.
    pub fn kvec<S: Into<Span<'a>>>(ranges: impl IntoIterator<Item = S>) -> Self {
        Self::over(IterKind::Kvec, ranges.into_iter().map(Into::into).collect())
    }

    /// `len` bytes from byte `start` of a page cache, to be filled.
    ///
    /// # Errors
    /// [`MissingPage`] with the index of the first page that is not in the cache.
    pub fn xarray(map: &'a mut PageMap, start: u64, len: usize) -> Result<Self, MissingPage> {
        Ok(Self::over(IterKind::Xarray, map.spans_mut(start, len)?))
    }

    /// `len` bytes from byte `start` of a page cache, to be read from.
    ///
    /// # Errors
    /// As [`IoIter::xarray`].
    pub fn xarray_source(map: &'a PageMap, start: u64, len: usize) -> Result<Self, MissingPage> {
        Ok(Self::over(IterKind::Xarray, map.spans(start, len)?))
    }

    fn over(kind: IterKind, spans: Vec<Span<'a>>) -> Self {
        let remaining = spans.iter().map(Span::len).sum();
        Self { kind, spans, at: 0, skip: 0, remaining }
    }

    /// What backs it.
    pub fn kind(&self) -> IterKind {
        self.kind
    }

    /// Bytes from here to the end.
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// Whether all of the memory may be written.
    pub fn is_writable(&self) -> bool {
        self.spans.iter().all(Span::is_writable)
    }

    /// Whether [`IoIter::extract`] will pin (`iov_iter_extract_will_pin`, include/linux/uio.h).
    pub fn will_pin(&self) -> bool {
        self.kind.is_user_backed()
    }

    /// Keeps at most `len` of the remaining bytes.
    pub fn truncate(&mut self, len: usize) {
        self.remaining = self.remaining.min(len);
    }

    /// Moves forward. There is no way back.
    ///
    /// # Panics
    /// When fewer than `bytes` remain.
    pub fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.remaining, "advance by {bytes} of {}", self.remaining);
        self.remaining -= bytes;
        self.skip += bytes;
        while let Some(span) = self.spans.get(self.at)
            && self.skip >= span.len()
        {
            self.skip -= span.len();
            self.at += 1;
        }
    }

    /// Copies from `source` into the iterator's memory and moves forward. Returns the bytes
    /// copied: less than the source has only at the end of the memory.
    ///
    /// # Errors
    /// [`ReadOnly`].
    pub fn copy_from(&mut self, source: &[u8]) -> Result<usize, ReadOnly> {
        let kind = self.kind;
        let mut done = 0;
        self.for_each_span(source.len(), |mut range| {
            let memory = range.as_mut_slice().ok_or(ReadOnly(kind))?;
            memory.copy_from_slice(&source[done..done + memory.len()]);
            done += memory.len();
            Ok(memory.len())
        })
    }

    /// Copies from the iterator's memory into `sink` and moves forward. Returns the bytes copied.
    pub fn copy_to(&mut self, sink: &mut [u8]) -> usize {
        let mut done = 0;
        let copied = self.for_each_span(sink.len(), |range| {
            let memory = range.as_slice();
            sink[done..done + memory.len()].copy_from_slice(memory);
            done += memory.len();
            Ok::<_, std::convert::Infallible>(memory.len())
        });
        let Ok(copied) = copied;
        copied
    }
}
