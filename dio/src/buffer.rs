//! An owned page-aligned buffer.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use crate::buddy::Piece;
use crate::loan::Lender;
use crate::mapping::{Mapping, SLAB};
use crate::pool::Inner;

/// Page-aligned memory with one owner, from [`Pool::take`](crate::Pool::take).
///
/// It is moved into an I/O and comes back with the result, so nobody can look at it while the
/// kernel writes to it. Dropping it returns the memory to the pool.
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
    capacity: usize,
    home: Home,
}

enum Home {
    Slab { pool: Arc<Inner>, piece: Piece },
    Private { _memory: Mapping },
    Loan { lender: Arc<Lender> },
}

// SAFETY: a Buffer is the only handle to its bytes (the buddy system gives no piece twice until
// `drop` returns it, and a private mapping is its own), and they belong to no thread.
unsafe impl Send for Buffer {}
// SAFETY: through a shared Buffer the bytes can only be read.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(crate) fn piece(pool: Arc<Inner>, piece: Piece, len: usize) -> Self {
        let (start, capacity) = (pool.address_of(piece), pool.bytes_of(piece));
        assert!(len <= capacity);
        Self { start, len, capacity, home: Home::Slab { pool, piece } }
    }

    pub(crate) fn private(memory: Mapping, len: usize) -> Self {
        let (start, capacity) = (memory.base(), memory.len());
        assert!(len <= capacity);
        Self { start, len, capacity, home: Home::Private { _memory: memory } }
    }

    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no bytes are in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes there is room for: a multiple of the page size.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets the number of bytes in use. Bytes that were not in use before have whatever value an
    /// earlier I/O or user left (never uninitialised memory: the kernel zeroed the page once).
    ///
    /// # Panics
    /// When `len` is more than the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "length {len} exceeds capacity {}", self.capacity);
        self.len = len;
    }

    /// Keeps at most the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The bytes in use.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: [start, start+len) is inside memory that `home` keeps mapped, initialised by the
        // kernel's zeroing, and not under I/O: an I/O owns its Buffer, so there is no `self` then.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes in use, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Sets every byte in use to zero.
    pub fn fill_zero(&mut self) {
        self.as_mut_slice().fill(0);
    }

    /// Address of the first byte: a multiple of the page size.
    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// Whether the memory is a piece of a slab, and not a private mapping.
    pub fn is_pooled(&self) -> bool {
        match &self.home {
            Home::Slab { .. } => true,
            Home::Private { .. } => false,
            Home::Loan { lender } => lender.memory().is_pooled(),
        }
    }

    /// The same memory as `lender`'s own buffer, which the lender lets nobody else have.
    pub(crate) fn loan(lender: Arc<Lender>) -> Self {
        let (start, capacity) = (lender.memory().start, lender.memory().capacity);
        Self { start, len: 0, capacity, home: Home::Loan { lender } }
    }

    /// Whether this is a loan of `lender`'s.
    pub fn is_from(&self, lender: &Arc<Lender>) -> bool {
        matches!(&self.home, Home::Loan { lender: own } if Arc::ptr_eq(own, lender))
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The slab of the pool `inner` that this buffer lies in.
    pub(crate) fn slab_of(&self, inner: *const Inner) -> Option<usize> {
        match &self.home {
            Home::Slab { pool, piece } if std::ptr::eq(Arc::as_ptr(pool), inner) => {
                debug_assert!(self.capacity <= SLAB);
                Some(piece.slab as usize)
            }
            Home::Loan { lender } => lender.memory().slab_of(inner),
            _ => None,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match &self.home {
            Home::Slab { pool, piece } => pool.give(*piece),
            Home::Loan { lender } => lender.take_back(),
            Home::Private { .. } => {}
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer")
            .field("address", &self.start)
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .field("pooled", &self.is_pooled())
            .finish()
    }
}
