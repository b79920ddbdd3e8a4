//! Extraction: the memory of an iterator for somebody who works on it outside the iterator.
//!
//! The kernel's `iov_iter_extract_pages` (lib/iov_iter.c) pins what user space owns and leaves
//! alone what the kernel owns; whoever cleans up must know which it was. Here the type says it:
//! [`Extraction::Pinned`] holds pins and lets go of each exactly once when it is dropped,
//! [`Extraction::Borrowed`] holds nothing and releases nothing.

use std::io;

use crate::iter::IoIter;

/// One pin, as its backend knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PinToken(pub u64);

/// What pins user memory. See [`RingPins`](super::RingPins), [`MlockPins`](super::MlockPins) and
/// [`KernelPins`](super::KernelPins).
pub trait PinBackend: Send + Sync {
    /// Pins `len` bytes at `address`. Pins of the same page count.
    ///
    /// # Errors
    /// `ENOMEM` or `EAGAIN` over a limit, `EFAULT` for memory that is not mapped.
    fn pin(&self, address: usize, len: usize) -> io::Result<PinToken>;

    /// Undoes one pin. Called exactly once for each token.
    fn unpin(&self, token: PinToken);
}

/// Memory of an iterator, in order. The iterator stays borrowed, so it cannot hand the same bytes
/// to anybody else, and it is moved by hand when it is known how much was transferred.
#[derive(Debug)]
pub enum Extraction<'i> {
    /// User memory, pinned until this is dropped.
    Pinned(Pinned<'i>),
    /// Memory that its owner keeps; nothing to undo.
    Borrowed(Borrowed<'i>),
}

/// Pinned segments.
pub struct Pinned<'i> {
    segments: Vec<libc::iovec>,
    pins: Vec<PinToken>,
    backend: &'i dyn PinBackend,
}

/// Segments without pins.
#[derive(Debug)]
pub struct Borrowed<'i> {
    segments: Vec<libc::iovec>,
    _iter: std::marker::PhantomData<&'i mut ()>,
}

impl Extraction<'_> {
    /// Address and length of each contiguous piece.
    pub fn segments(&self) -> &[libc::iovec] {
        match self {
            Self::Pinned(p) => &p.segments,
            Self::Borrowed(b) => &b.segments,
        }
    }

    /// Bytes in all segments.
    pub fn len(&self) -> usize {
        self.segments().iter().map(|s| s.iov_len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.segments().is_empty()
    }
}

impl<'a> IoIter<'a> {
    /// The next `max` bytes, in at most `segments_max` contiguous segments, pinned by `backend` if
    /// the iterator is user-backed. Does not move the iterator.
    ///
    /// # Errors
    /// Those of the backend. Nothing stays pinned then.
    pub fn extract<'i>(
        &'i mut self,
        max: usize,
        segments_max: usize,
        backend: &'i dyn PinBackend,
    ) -> io::Result<Extraction<'i>> {
        let segments = self.peek(max, segments_max);
        if !self.will_pin() {
            return Ok(Extraction::Borrowed(Borrowed {
                segments,
                _iter: std::marker::PhantomData,
            }));
        }
        let mut pinned = Pinned { segments, pins: Vec::new(), backend };
        for i in 0..pinned.segments.len() {
            let segment = pinned.segments[i];
            // A failure drops `pinned`, and with it the pins so far.
            pinned.pins.push(backend.pin(segment.iov_base as usize, segment.iov_len)?);
        }
        Ok(Extraction::Pinned(pinned))
    }

    /// Segments from here on, without moving.
    fn peek(&mut self, max: usize, segments_max: usize) -> Vec<libc::iovec> {
        let (mut left, mut skip) = (max.min(self.remaining), self.skip);
        let mut segments = Vec::new();
        for span in &mut self.spans[self.at..] {
            let len = (span.len() - skip).min(left);
            if segments.len() == segments_max || left == 0 {
                break;
            }
            if len > 0 {
                segments.push(span.range(skip, len).iovec());
            }
            (left, skip) = (left - len, 0);
        }
        segments
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        for token in self.pins.drain(..) {
            self.backend.unpin(token);
        }
    }
}

impl std::fmt::Debug for Pinned<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pinned").field("segments", &self.segments.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::collections::HashSet;

    /// Counts, and refuses the pin with the given number.
    #[derive(Default)]
    struct Counting {
        live: Mutex<HashSet<u64>>,
        made: Mutex<u64>,
        refuse: Option<u64>,
    }

    impl PinBackend for Counting {
        fn pin(&self, _: usize, _: usize) -> io::Result<PinToken> {
            let mut made = self.made.lock();
            if self.refuse == Some(*made) {
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            }
            *made += 1;
            assert!(self.live.lock().insert(*made));
            Ok(PinToken(*made))
        }

        fn unpin(&self, token: PinToken) {
            assert!(self.live.lock().remove(&token.0), "unpinned twice");
        }
    }

    #[test]
    fn user_memory_is_pinned_until_the_extraction_goes() {
        let pins = Counting::default();
        let (mut a, mut b) = ([0; 100], [0; 50]);
        let mut iter = IoIter::iovec([&mut a[..], &mut b[..]]);
        iter.advance(10);
        let extraction = iter.extract(usize::MAX, 1024, &pins).unwrap();
        assert!(matches!(extraction, Extraction::Pinned(_)));
        assert_eq!(
            (extraction.len(), extraction.segments().len(), pins.live.lock().len()),
            (140, 2, 2)
        );
        drop(extraction);
        assert_eq!((pins.live.lock().len(), *pins.made.lock()), (0, 2));
        assert_eq!(iter.remaining(), 140, "extraction does not move the iterator");
    }

    #[test]
    fn a_refusal_half_way_leaves_nothing_pinned() {
        let pins = Counting { refuse: Some(2), ..Counting::default() };
        let mut memory = [[0; 10]; 5];
        let mut iter = IoIter::iovec(memory.iter_mut().map(|m| &mut m[..]));
        assert_eq!(iter.extract(50, 1024, &pins).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
        assert_eq!((pins.live.lock().len(), *pins.made.lock()), (0, 2));
    }

    #[test]
    fn a_panic_while_pinned_unpins() {
        let pins = Counting::default();
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut memory = [0; 10];
            let mut iter = IoIter::ubuf(&mut memory[..]);
            let _extraction = iter.extract(10, 1, &pins).unwrap();
            panic!("on purpose");
        }));
        assert!(unwound.is_err());
        assert_eq!((pins.live.lock().len(), *pins.made.lock()), (0, 1));
    }

    #[test]
    fn our_own_memory_is_borrowed_and_never_pinned() {
        let pins = Counting::default();
        let pool = crate::Pool::new(crate::PoolConfig { slabs: 1, ..Default::default() }).unwrap();
        let mut parts = [crate::Part { buf: pool.take(4096), from: 512, len: 1024 }];
        let mut heap = [0; 10];
        let mut map = crate::iter::PageMap::new();
        map.populate(&pool, 0, 8192);
        for (mut iter, segments) in [
            (IoIter::bvec(&mut parts), 1),
            (IoIter::kvec([&mut heap[..]]), 1),
            (IoIter::xarray(&mut map, 100, 8000).unwrap(), 2),
        ] {
            let extraction = iter.extract(usize::MAX, 1024, &pins).unwrap();
            assert!(matches!(extraction, Extraction::Borrowed(_)));
            assert_eq!(extraction.segments().len(), segments);
        }
        assert_eq!(*pins.made.lock(), 0);
    }

    #[test]
    fn an_extraction_is_as_long_and_as_many_as_asked() {
        let pins = Counting::default();
        let mut memory = [[0; 10]; 5];
        let mut iter = IoIter::kvec(memory.iter_mut().map(|m| &mut m[..]));
        assert_eq!(iter.extract(25, 1024, &pins).unwrap().len(), 25);
        assert_eq!(iter.extract(25, 2, &pins).unwrap().len(), 20);
        assert!(iter.extract(0, 2, &pins).unwrap().is_empty());
    }
}
