//! A mapping of a file. Loads and stores may fault, and a fault may be parked, so they are done where a
//! case wants them: here, or in a thread (see [`Mapping::address`]).
#![allow(unsafe_code)]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, munmap};

use crate::kit::sys;
use crate::kit::verdict::not_run;

/// A shared or private mapping of a file's beginning.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: the mapping belongs to this value, and is accessed by volatile or copying accesses only.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes, shared and writable.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn shared(file: &File, len: usize) -> anyhow::Result<Mapping> {
        Mapping::new(file, len, MapFlags::MAP_SHARED, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    /// Maps `len` bytes, private and read-only: what is seen is the page cache.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn private(file: &File, len: usize) -> anyhow::Result<Mapping> {
        Mapping::new(file, len, MapFlags::MAP_PRIVATE, ProtFlags::PROT_READ)
    }

    /// Maps `len` bytes, private and writable: a store makes a copy.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn private_writable(file: &File, len: usize) -> anyhow::Result<Mapping> {
        Mapping::new(file, len, MapFlags::MAP_PRIVATE, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }

    fn new(file: &File, len: usize, flags: MapFlags, prot: ProtFlags) -> anyhow::Result<Mapping> {
        let len = NonZeroUsize::new(len.next_multiple_of(4096)).context("an empty mapping")?;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe { mmap(None, len, prot, flags, file, 0) }.context("map a file")?;
        let mapping = Mapping { start: start.as_ptr().cast(), len: len.get() };
        // Faults bring in one page each, so a case knows which requests it causes.
        // SAFETY: advice on our own range.
        unsafe { madvise(start, len.get(), MmapAdvise::MADV_RANDOM) }.context("MADV_RANDOM")?;
        Ok(mapping)
    }

    /// Brings all of it into memory and locks it there: what is mapped stays in the page cache, whoever drops
    /// clean pages (`/proc/sys/vm/drop_caches`, reclaim). Unmapping unlocks.
    ///
    /// # Errors
    /// NOTRUN when the limit of locked memory is too small.
    pub fn lock(&self) -> anyhow::Result<()> {
        let start = NonNull::new(self.start.cast()).context("an empty mapping")?;
        // SAFETY: locking our own range changes nothing that it holds.
        unsafe { mlock(start, self.len) }.map_err(|errno| {
            not_run(format!("mlock of {} bytes: {errno}; raise `ulimit -l`", self.len))
        })
    }

    /// Pages of it that are in the page cache (mincore(2)); all of them, where we may not know.
    ///
    /// # Errors
    /// Those of the call.
    pub fn resident(&self) -> anyhow::Result<usize> {
        let mut pages = vec![0u8; self.len.div_ceil(4096)];
        // SAFETY: the range is ours, and there is a byte for each of its pages.
        let result = unsafe { libc::mincore(self.start.cast(), self.len, pages.as_mut_ptr()) };
        Errno::result(result).context("mincore")?;
        Ok(pages.iter().filter(|&&page| page & 1 != 0).count())
    }

    /// Address of a byte.
    ///
    /// # Panics
    /// When it lies outside.
    pub fn address(&self, at: usize) -> *mut u8 {
        assert!(at < self.len);
        self.start.wrapping_add(at)
    }

    /// Loads a range. Behind the end of the file this is SIGBUS: the case must not ask for it.
    pub fn load(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.len);
        let mut bytes = vec![0; len];
        // SAFETY: inside our mapping; the destination is a fresh vector.
        unsafe { std::ptr::copy_nonoverlapping(self.start.add(at), bytes.as_mut_ptr(), len) }
        bytes
    }

    /// Stores a range.
    pub fn store(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        // SAFETY: inside our mapping, which is writable; `bytes` is no part of it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(at), bytes.len()) }
    }

    /// Stores what read(2) gives of a pipe: a page that is gone is EFAULT and not SIGBUS.
    ///
    /// # Errors
    /// The errno of the call.
    pub fn receive(&self, at: usize, len: usize, from: &OwnedFd) -> Result<usize, Errno> {
        assert!(at + len <= self.len);
        // SAFETY: inside our mapping, which stays as long as `self` and is accessed through raw pointers only.
        unsafe { sys::read_to(from, self.start.add(at), len) }
    }

    /// The same from a file's `offset`, by pread(2).
    ///
    /// # Errors
    /// The errno of the call.
    pub fn receive_at(
        &self,
        at: usize,
        len: usize,
        from: &File,
        offset: u64,
    ) -> Result<usize, Errno> {
        assert!(at + len <= self.len);
        // SAFETY: as in `receive`.
        unsafe { sys::read_into(from, offset, self.start.add(at), len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let start = std::ptr::NonNull::new(self.start.cast()).expect("mapped");
        // SAFETY: the mapping is ours, and this is its last use.
        let _ = unsafe { munmap(start, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn pages_are_resident_when_they_were_read_and_not_before() {
        // On a disk: memory files have no pages to forget.
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all_at(&[1; 8 * 4096], 0).unwrap();
        file.sync_all().unwrap();
        let mapping = Mapping::private(&file, 8 * 4096).unwrap();
        let forget = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        nix::fcntl::posix_fadvise(&file, 0, 0, forget).unwrap();
        assert_eq!(mapping.resident().unwrap(), 0);
        file.read_exact_at(&mut [0; 4096], 4096).unwrap();
        assert!(mapping.resident().unwrap() >= 1);
    }
}
