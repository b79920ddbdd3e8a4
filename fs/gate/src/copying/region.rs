//! Anonymous memory whose pages are there only where they were written.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::page_size;

/// A mapping of its own, of whole pages that are never part of a huge one.
#[derive(Debug)]
pub(super) struct Region {
    start: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: an anonymous mapping belongs to the process: any thread may use and unmap it.
unsafe impl Send for Region {}
// SAFETY: through a shared reference it is only read, or filled by the kernel in calls that say so.
unsafe impl Sync for Region {}

impl Region {
    /// Of at least `len` bytes, not 0, all zero.
    ///
    /// # Errors
    /// mmap(2), madvise(2).
    pub fn new(len: usize) -> io::Result<Region> {
        let len = len.next_multiple_of(page_size());
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new private mapping overlaps nothing.
        let start = unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_PRIVATE) }?;
        let region = Region { start, len };
        // Where the kernel has no huge pages it refuses the advice.
        // SAFETY: it is our mapping, and the advice changes no byte of it.
        let _ = unsafe { madvise(start, len, MmapAdvise::MADV_NOHUGEPAGE) };
        Ok(region)
    }

    /// Where byte `offset` lies.
    pub fn address(&self, offset: usize) -> usize {
        self.start.as_ptr() as usize + offset
    }

    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the mapping is as long and lives as long as this.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len) }
    }

    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len, "{offset} and {}", bytes.len());
        // SAFETY: it is inside the mapping, and `bytes` are others'.
        unsafe {
            let to = self.start.as_ptr().cast::<u8>().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// All of it, to be filled.
    ///
    /// # Safety
    /// Nobody else has a reference to it meanwhile.
    #[allow(clippy::mut_from_ref, reason = "the caller sees to it that there is one")]
    pub unsafe fn fill(&self) -> &mut [u8] {
        // SAFETY: the mapping is as long and lives as long as this, and the caller has the only reference to it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len) }
    }

    /// Copies what lies at `offset` while somebody else may be filling it.
    pub fn peek(&self, offset: usize, bytes: &mut [u8]) {
        assert!(offset + bytes.len() <= self.len, "{offset} and {}", bytes.len());
        for (at, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: it is inside the mapping; a byte that changes meanwhile is one of its values.
            *byte = unsafe { self.start.as_ptr().cast::<u8>().add(offset + at).read_volatile() };
        }
    }

    /// Takes a page away: it is missing until it is brought again.
    pub fn forget(&self, offset: usize) {
        assert!(offset + page_size() <= self.len, "{offset}");
        // SAFETY: the page is inside the mapping, and bytes of any value are valid there: it reads as zero, or waits.
        let _ = unsafe {
            let page = self.start.byte_add(offset);
            madvise(page, page_size(), MmapAdvise::MADV_DONTNEED)
        };
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, and nothing refers to it any more.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}
