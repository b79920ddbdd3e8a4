//! Borrowed ranges of memory, with the right to write remembered.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::buffer::Buffer;
use crate::engine::Part;
use crate::mapping::page_size;

/// A range of memory that is borrowed for `'a`: exclusively if it is writable.
#[derive(Debug)]
pub struct Span<'a> {
    start: NonNull<u8>,
    len: usize,
    writable: bool,
    borrow: PhantomData<&'a mut [u8]>,
}

// SAFETY: a Span stands for the slice that it was made from, and both `&[u8]` and `&mut [u8]` are
// Send.
unsafe impl Send for Span<'_> {}
// SAFETY: through a shared Span the bytes can only be read.
unsafe impl Sync for Span<'_> {}

impl<'a> Span<'a> {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it was made from an exclusive borrow.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// `len` bytes from byte `from`.
    ///
    /// # Panics
    /// When that is not inside.
    pub(crate) fn range(&mut self, from: usize, len: usize) -> PageRange<'_> {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: inside the span, by the line above.
        let start = unsafe { self.start.add(from) };
        PageRange { start, len, writable: self.writable, borrow: PhantomData }
    }
}

impl<'a> From<&'a mut [u8]> for Span<'a> {
    fn from(s: &'a mut [u8]) -> Self {
        Self {
            start: NonNull::from(&mut *s).cast(),
            len: s.len(),
            writable: true,
            borrow: PhantomData,
        }
    }
}

impl<'a> From<&'a [u8]> for Span<'a> {
    fn from(s: &'a [u8]) -> Self {
        Self { start: NonNull::from(s).cast(), len: s.len(), writable: false, borrow: PhantomData }
    }
}

impl<'a> From<&'a mut Buffer> for Span<'a> {
    fn from(buf: &'a mut Buffer) -> Self {
        buf.as_mut_slice().into()
    }
}

impl<'a> From<&'a Buffer> for Span<'a> {
    fn from(buf: &'a Buffer) -> Self {
        buf.as_slice().into()
    }
}

impl<'a> From<&'a mut Part> for Span<'a> {
    fn from(part: &'a mut Part) -> Self {
        let (from, len) = (part.from, part.len);
        (&mut part.buf.as_mut_slice()[from..from + len]).into()
    }
}

impl<'a> From<&'a Part> for Span<'a> {
    fn from(part: &'a Part) -> Self {
        part.buf.as_slice()[part.from..part.from + part.len].into()
    }
}

/// A part of a [`Span`] that a walk shows to its callback. In a page walk it lies within one page.
#[derive(Debug)]
pub struct PageRange<'r> {
    start: NonNull<u8>,
    len: usize,
    writable: bool,
    borrow: PhantomData<&'r mut [u8]>,
}

impl PageRange<'_> {
    /// Bytes, at least one.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a walk skips empty ranges.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte.
    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// Offset of the first byte in its page.
    pub fn offset_in_page(&self) -> usize {
        self.address() % page_size()
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the range is part of a Span, which borrows the memory for longer than 'r; the
        // walk lends one range at a time from a `&mut` iterator, so nobody writes meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to be changed. `None` when the span was made from a shared borrow.
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        if !self.writable {
            return None;
        }
        // SAFETY: as in `as_slice`, and `writable` says that the Span holds the only borrow.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) })
    }

    /// For the kernel: address and length.
    pub(crate) fn iovec(&self) -> libc::iovec {
        libc::iovec { iov_base: self.start.as_ptr().cast(), iov_len: self.len }
    }
}
