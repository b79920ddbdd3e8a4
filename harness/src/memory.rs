//! Memory that I/O goes to: of a chosen kind, with unmapped neighbours, one mapping a case.
#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use serde::{Deserialize, Serialize};

use crate::pagemap;
use crate::stamp::POISON;
use crate::verdict::not_run;

/// Bytes of a base page.
pub const PAGE: usize = 4096;
/// Bytes of a huge page.
pub const HUGE: usize = 2 << 20;

/// Kinds of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Memory {
    /// Private anonymous base pages.
    Anon,
    /// A private anonymous transparent huge page.
    Thp,
    /// A private page of hugetlbfs.
    Hugetlb,
    /// Shared anonymous base pages.
    Shared,
    /// A shared mapping of a memfd.
    Memfd,
}

impl Memory {
    /// The name in variants.
    pub fn name(self) -> &'static str {
        match self {
            Memory::Anon => "anon",
            Memory::Thp => "thp",
            Memory::Hugetlb => "hugetlb",
            Memory::Shared => "shared",
            Memory::Memfd => "memfd",
        }
    }

    /// Whether a forked child is meant to see what arrives in the parent's memory.
    pub fn is_shared(self) -> bool {
        matches!(self, Memory::Shared | Memory::Memfd)
    }
}

/// A mapping between two unmapped neighbours, filled with [`POISON`]. Everything goes through raw
/// pointers: the kernel writes to this memory while we look at it, so no reference to it may exist.
#[derive(Debug)]
pub struct Buffer {
    base: *mut u8,
    len: usize,
    whole: (*mut u8, usize),
    _file: Option<OwnedFd>,
}

// SAFETY: the mapping belongs to this value alone, and it is only read and written by volatile or
// copying accesses through raw pointers, from whichever thread.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Maps at least `len` bytes of the kind, all touched and filled with poison.
    ///
    /// # Errors
    /// NOTRUN when the kind cannot be had here; otherwise mmap(2) failed.
    pub fn new(kind: Memory, len: usize) -> anyhow::Result<Buffer> {
        let unit = if matches!(kind, Memory::Thp | Memory::Hugetlb) { HUGE } else { PAGE };
        let len = len.next_multiple_of(unit);
        let mut buffer = Buffer::reserve(len, unit)?;
        buffer.map(kind)?;
        buffer.fill(0, buffer.len, POISON);
        if kind == Memory::Thp && !pagemap::is_thp(buffer.base as usize)? {
            return Err(not_run("the kernel gave no transparent huge page"));
        }
        Ok(buffer)
    }

    /// Anonymous base pages that are mapped and were never touched.
    ///
    /// # Errors
    /// mmap(2) failed.
    pub fn untouched(len: usize) -> anyhow::Result<Buffer> {
        let mut buffer = Buffer::reserve(len.next_multiple_of(PAGE), PAGE)?;
        buffer.map(Memory::Anon)?;
        Ok(buffer)
    }

    /// Reserves address space with one unmapped unit on each side.
    fn reserve(len: usize, unit: usize) -> anyhow::Result<Buffer> {
        let size = NonZeroUsize::new(len + 3 * unit).expect("not empty");
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap_anonymous(None, size, ProtFlags::PROT_NONE, flags) }
            .context("reserve address space")?;
        let start = start.as_ptr().cast::<u8>();
        let base = (start as usize).next_multiple_of(unit) + unit;
        Ok(Buffer { base: base as *mut u8, len, whole: (start, size.get()), _file: None })
    }

    fn map(&mut self, kind: Memory) -> anyhow::Result<()> {
        let at = NonZeroUsize::new(self.base as usize);
        let len = NonZeroUsize::new(self.len).expect("not empty");
        let rw = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let fixed = MapFlags::MAP_FIXED;
        let flags = match kind {
            Memory::Anon | Memory::Thp => fixed | MapFlags::MAP_PRIVATE,
            Memory::Hugetlb => fixed | MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB,
            Memory::Shared | Memory::Memfd => fixed | MapFlags::MAP_SHARED,
        };
        let mapped = if kind == Memory::Memfd {
            let file =
                nix::sys::memfd::memfd_create("race", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
                    .context("memfd_create")?;
            nix::unistd::ftruncate(&file, self.len as i64).context("size of the memfd")?;
            // SAFETY: the address range is our own reservation, which this replaces.
            let mapped = unsafe { mmap(at, len, rw, flags, file.as_fd(), 0) };
            self._file = Some(file);
            mapped
        } else {
            // SAFETY: as above.
            unsafe { mmap_anonymous(at, len, rw, flags) }
        };
        match mapped {
            Ok(_) => {}
            Err(nix::errno::Errno::ENOMEM) if kind == Memory::Hugetlb => {
                return Err(not_run("no free huge page (see /proc/sys/vm/nr_hugepages)"));
            }
            Err(error) => return Err(error).context("map the buffer"),
        }
        match kind {
            Memory::Anon => self.advise(MmapAdvise::MADV_NOHUGEPAGE),
            Memory::Thp => self.advise(MmapAdvise::MADV_HUGEPAGE),
            _ => Ok(()),
        }
    }

    /// First byte.
    pub fn ptr(&self) -> *mut u8 {
        self.base
    }

    /// A byte further on.
    ///
    /// # Panics
    /// When `at` lies outside.
    pub fn at(&self, at: usize) -> *mut u8 {
        assert!(at < self.len, "byte {at} of a buffer of {}", self.len);
        self.base.wrapping_add(at)
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a buffer has at least a page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// madvise(2) on all of it.
    ///
    /// # Errors
    /// Those of the call.
    pub fn advise(&self, advice: MmapAdvise) -> anyhow::Result<()> {
        let start = std::ptr::NonNull::new(self.base.cast()).expect("mapped");
        // SAFETY: the range is ours. Advice that empties it loses test data only.
        unsafe { madvise(start, self.len, advice) }.with_context(|| format!("{advice:?}"))
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

    /// Writes `byte` to a range.
    pub fn fill(&self, from: usize, len: usize, byte: u8) {
        assert!(from + len <= self.len);
        // SAFETY: the range is inside our mapping, and no reference to it exists.
        unsafe { std::ptr::write_bytes(self.base.add(from), byte, len) }
    }

    /// Copies bytes in.
    pub fn write(&self, from: usize, bytes: &[u8]) {
        assert!(from + bytes.len() <= self.len);
        // SAFETY: as for `fill`; `bytes` is not part of the mapping, of which no slice exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(from), bytes.len()) }
    }

    /// Stores one byte, as a program would.
    pub fn store(&self, at: usize, byte: u8) {
        // SAFETY: inside our mapping, see `at`.
        unsafe { self.at(at).write_volatile(byte) }
    }

    /// Loads one byte, as a program would.
    pub fn load(&self, at: usize) -> u8 {
        // SAFETY: inside our mapping, see `at`.
        unsafe { self.at(at).read_volatile() }
    }

    /// Copies a range out.
    pub fn bytes(&self, from: usize, len: usize) -> Vec<u8> {
        assert!(from + len <= self.len);
        let mut bytes = vec![0; len];
        // SAFETY: inside our mapping; the destination is a fresh vector.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(from), bytes.as_mut_ptr(), len) }
        bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let start = std::ptr::NonNull::new(self.whole.0.cast()).expect("mapped");
        // SAFETY: the whole reservation is ours, and this is its last use.
        let _ = unsafe { munmap(start, self.whole.1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_poisoned_and_stands_alone() {
        for kind in [Memory::Anon, Memory::Shared, Memory::Memfd] {
            let buffer = Buffer::new(kind, 100).unwrap();
            assert_eq!((buffer.len(), buffer.ptr() as usize % PAGE), (PAGE, 0));
            assert!(buffer.bytes(0, PAGE).iter().all(|&byte| byte == POISON));
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let line = format!("{:x}-{:x} rw", buffer.ptr() as usize, buffer.ptr() as usize + PAGE);
            assert!(maps.contains(&line), "no neighbour merges with it: {line}\n{maps}");
        }
    }
}
