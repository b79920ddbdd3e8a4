//! What is done to memory while an I/O goes to it.
#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::ops::Range;

use anyhow::Context;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap};

use super::{Buffer, Memory, PAGE};

impl Buffer {
    /// madvise(2) on all of it.
    ///
    /// # Errors
    /// Those of the call.
    pub fn advise(&self, advice: MmapAdvise) -> anyhow::Result<()> {
        self.advise_range(0..self.len, advice)
    }

    /// madvise(2) on some of its pages.
    ///
    /// # Errors
    /// Those of the call.
    ///
    /// # Panics
    /// When the range lies outside.
    pub fn advise_range(&self, range: Range<usize>, advice: MmapAdvise) -> anyhow::Result<()> {
        assert!(range.end <= self.len, "{range:?} of a buffer of {}", self.len);
        let start = std::ptr::NonNull::new(self.at(range.start).cast()).expect("mapped");
        // SAFETY: the range is ours. Advice that empties it loses test data only.
        unsafe { madvise(start, range.len(), advice) }.with_context(|| format!("{advice:?}"))
    }

    /// mprotect(2) on all of it.
    ///
    /// # Errors
    /// Those of the call.
    pub fn protect(&self, prot: ProtFlags) -> anyhow::Result<()> {
        let start = std::ptr::NonNull::new(self.base.cast()).expect("mapped");
        // SAFETY: the range is ours; whoever forbids access does not access it.
        unsafe { nix::sys::mman::mprotect(start, self.len, prot) }.context("mprotect")
    }

    /// Replaces the mapping by fresh anonymous pages at the same address (munmap + mmap in one call).
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn remap(&mut self) -> anyhow::Result<()> {
        self.map(Memory::Anon)
    }

    /// Moves the pages to another address (mremap), and maps fresh ones at the old one.
    ///
    /// # Errors
    /// Those of mremap(2).
    pub fn move_away(&mut self) -> anyhow::Result<Buffer> {
        let moved = Buffer::reserve(self.len, self.unit)?;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let (from, to) = (self.base.cast(), moved.base.cast::<libc::c_void>());
        // SAFETY: both ranges are ours, and as long as each other.
        let result = unsafe { libc::mremap(from, self.len, self.len, flags, to) };
        anyhow::ensure!(result == to, "mremap: {}", std::io::Error::last_os_error());
        self.map(Memory::Anon)?;
        Ok(moved)
    }

    /// Replaces a page by a private mapping of a file's first page, which faults when it is touched.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn put_file(&mut self, page: usize, file: &std::fs::File) -> anyhow::Result<()> {
        let at = NonZeroUsize::new(self.at(page * PAGE) as usize);
        let len = NonZeroUsize::new(PAGE).expect("not empty");
        let rw = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED;
        // SAFETY: the page is part of our own mapping.
        unsafe { mmap(at, len, rw, flags, file, 0) }.context("map a file into the buffer")?;
        Ok(())
    }
}

/// mprotect(2) on part of a mapping of ours, for a thread that has only its address.
///
/// # Errors
/// Those of the call.
pub fn protect(start: usize, len: usize, prot: ProtFlags) -> nix::Result<()> {
    let start =
        std::ptr::NonNull::new(start as *mut libc::c_void).ok_or(nix::errno::Errno::EINVAL)?;
    // SAFETY: changes what may be done with a range, not what is in it; test memory only.
    unsafe { nix::sys::mman::mprotect(start, len, prot) }
}

/// MADV_COLLAPSE: makes base pages a huge page, now.
///
/// # Errors
/// Those of the call.
pub fn collapse(start: usize, len: usize) -> nix::Result<()> {
    const MADV_COLLAPSE: libc::c_int = 25;
    // SAFETY: the contents stay as they are.
    let result = unsafe { libc::madvise(start as *mut libc::c_void, len, MADV_COLLAPSE) };
    nix::errno::Errno::result(result).map(drop)
}

/// move_pages(2) of one page of ours; gives the node it is on then, or the negated errno for the page.
///
/// # Errors
/// Those of the call.
pub fn move_to_node(address: usize, node: i32) -> nix::Result<i32> {
    const MPOL_MF_MOVE: libc::c_int = 2;
    let (pages, nodes, mut status) = ([address], [node], [0i32]);
    // SAFETY: all three arrays have the one element that the call reads or writes.
    let result = unsafe {
        let (pages, nodes) = (pages.as_ptr(), nodes.as_ptr());
        libc::syscall(libc::SYS_move_pages, 0, 1, pages, nodes, status.as_mut_ptr(), MPOL_MF_MOVE)
    };
    nix::errno::Errno::result(result).map(|_| status[0])
}
