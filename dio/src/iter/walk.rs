//! The walk over sub-ranges with a callback.

use crate::iter::{IoIter, PageRange};
use crate::mapping::page_size;

impl IoIter<'_> {
    /// Calls `f` for each part of the next `max` bytes that lies in one page, in order, and moves
    /// forward by what `f` says it used.
    ///
    /// This is the loop that Al Viro found in nearly every user of `iov_iter_get_pages` (seed 002):
    /// no array of references, no batch to size, nothing left over to drop.
    ///
    /// Ends after `max` bytes, at the end of the memory, when `f` uses less than it was shown, or
    /// at an error. Returns the bytes used.
    ///
    /// # Errors
    /// Those of `f`. The iterator then stands where `f` refused, and what was used before stays
    /// used.
    ///
    /// # Panics
    /// When `f` claims more than it was shown.
    pub fn for_each_range<E>(
        &mut self,
        max: usize,
        f: impl FnMut(PageRange<'_>) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.walk(max, |address| page_size() - address % page_size(), f)
    }

    /// [`IoIter::for_each_range`] in parts as long as the memory is contiguous, across pages.
    ///
    /// # Errors
    /// As [`IoIter::for_each_range`].
    pub fn for_each_span<E>(
        &mut self,
        max: usize,
        f: impl FnMut(PageRange<'_>) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.walk(max, |_| usize::MAX, f)
    }

    /// `grain`: bytes that may be shown at once from an address on.
    fn walk<E>(
        &mut self,
        max: usize,
        grain: impl Fn(usize) -> usize,
        mut f: impl FnMut(PageRange<'_>) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let end = max.min(self.remaining);
        let mut done = 0;
        while done < end {
            let (skip, span) = (self.skip, &mut self.spans[self.at]);
            let rest = (span.len() - skip).min(end - done);
            if rest == 0 {
                self.advance(0);
                continue;
            }
            let len = rest.min(grain(span.range(skip, rest).address()));
            let used = f(span.range(skip, len))?;
            assert!(used <= len, "{used} bytes used of {len}");
            self.advance(used);
            done += used;
            if used < len {
                break;
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iter::IterKind;
    use proptest::prelude::*;
    use std::convert::Infallible;

    #[test]
    fn a_page_walk_never_crosses_a_page_and_a_span_walk_does() {
        let page = page_size();
        let pool = crate::Pool::new(crate::PoolConfig { slabs: 1, ..Default::default() }).unwrap();
        let mut buf = pool.take(3 * page);
        let mut iter = IoIter::ubuf(&mut buf.as_mut_slice()[100..2 * page + 7]);
        let mut seen = Vec::new();
        let total = iter.for_each_range(usize::MAX, |r| {
            seen.push((r.offset_in_page(), r.len()));
            Ok::<_, Infallible>(r.len())
        });
        assert_eq!(total, Ok(2 * page + 7 - 100));
        assert_eq!(seen, [(100, page - 100), (0, page), (0, 7)]);
        let mut iter = IoIter::ubuf(&mut buf);
        let once = iter.for_each_span(usize::MAX, |r| Ok::<_, Infallible>(r.len()));
        assert_eq!((once, iter.remaining()), (Ok(3 * page), 0));
    }

    #[test]
    fn the_iterator_stands_where_the_callback_stopped() {
        let (mut a, mut b) = ([1u8; 10], [2u8; 10]);
        let mut iter = IoIter::kvec([&mut a[..], &mut b[..]]);
        let mut calls = 0;
        let stopped = iter.for_each_range(usize::MAX, |r| {
            calls += 1;
            if calls == 2 { Err(r.len()) } else { Ok(r.len()) }
        });
        assert_eq!((stopped, iter.remaining(), iter.kind()), (Err(10), 10, IterKind::Kvec));
        assert_eq!(iter.for_each_range(9, |_| Ok::<_, Infallible>(4)), Ok(4));
        assert_eq!(iter.remaining(), 6);
    }

    #[test]
    fn memory_that_may_only_be_read_is_not_written() {
        let text = *b"text";
        let mut iter = IoIter::ubuf(&text[..]);
        assert!(iter.copy_from(b"XXXX").is_err());
        let mut back = [0; 9];
        assert_eq!((iter.copy_to(&mut back), &back[..4]), (4, &b"text"[..]));
    }

    proptest! {
        /// Bytes copied in through ranges of any shape come out through any other shape.
        #[test]
        fn copies_through_any_shape_agree(
            sizes in prop::collection::vec(0usize..50, 1..8),
            steps in prop::collection::vec(1usize..40, 1..30),
        ) {
            let total: usize = sizes.iter().sum();
            let source: Vec<u8> = (0..total).map(|i| i as u8).collect();
            let mut memory: Vec<Vec<u8>> = sizes.iter().map(|&n| vec![0xff; n]).collect();
            let mut iter = IoIter::iovec(memory.iter_mut().map(|m| &mut m[..]));
            let mut at = 0;
            for step in &steps {
                let end = (at + step).min(total);
                at += iter.copy_from(&source[at..end]).unwrap();
                prop_assert_eq!(iter.remaining(), total - at);
            }
            let flat = memory.concat();
            prop_assert_eq!(&flat[..at], &source[..at]);
            prop_assert!(flat[at..].iter().all(|&b| b == 0xff));
            let mut back = vec![0; total];
            prop_assert_eq!(IoIter::iovec(memory.iter().map(|m| &m[..])).copy_to(&mut back), total);
            prop_assert_eq!(back, flat);
        }
    }
}
