//! Memory that I/O goes to: of a chosen kind, with unmapped neighbours, one mapping a case.
#![allow(unsafe_code)]

mod act;
mod build;
mod uffd_move;
mod wp;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::mman::munmap;
use serde::{Deserialize, Serialize};

pub use act::{collapse, move_to_node, protect};
pub use build::STACK;
pub use wp::Protector;

use super::sys::write_from;
pub use super::sys::{HUGE, PAGE};

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
    /// Private anonymous base pages that nobody ever touched.
    Zero,
    /// Pages of a thread's stack.
    Stack,
    /// A shared mapping of memfd_secret(2): nobody but whoever maps it gets at its pages, the kernel not either.
    Secret,
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
            Memory::Zero => "zero",
            Memory::Stack => "stack",
            Memory::Secret => "secret",
        }
    }

    /// Whether a forked child is meant to see what arrives in the parent's memory.
    pub fn is_shared(self) -> bool {
        matches!(self, Memory::Shared | Memory::Memfd | Memory::Secret)
    }
}

/// A mapping between two unmapped neighbours, filled with [poison](crate::kit::stamp::POISON). Everything goes through
/// raw pointers: the kernel writes to this memory while we look at it, so no reference to it may exist.
#[derive(Debug)]
pub struct Buffer {
    base: *mut u8,
    len: usize,
    /// Its pages are of this size, in bytes.
    unit: usize,
    /// The reservation around it; of no size where it is not ours to unmap.
    whole: (*mut u8, usize),
    _owner: Owner,
}

/// What keeps the memory alive besides its mapping.
#[derive(Debug)]
enum Owner {
    Nobody,
    File(#[expect(dead_code, reason = "held open")] OwnedFd),
    Thread(#[expect(dead_code, reason = "joined when it is dropped")] build::Sleeper),
}

// SAFETY: the mapping belongs to this value alone, and it is only read and written by volatile or
// copying accesses through raw pointers, from whichever thread.
unsafe impl Send for Buffer {}

impl Buffer {
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

impl Buffer {
    /// Whether its first page can be loaded: the kernel is asked, which answers EFAULT where a load would raise SIGBUS.
    pub fn is_there(&self) -> bool {
        nix::unistd::pipe().is_ok_and(|(_out, into)| write_from(&into, self.base, 1).is_ok())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.whole.1 == 0 {
            return;
        }
        let start = std::ptr::NonNull::new(self.whole.0.cast()).expect("mapped");
        // SAFETY: the whole reservation is ours, and this is its last use.
        let _ = unsafe { munmap(start, self.whole.1) };
    }
}

/// Runs `body` while another thread counts two numbers in a buffer up, at `first` before at `second`. The thread is over
/// when this returns, or unwinds.
///
/// # Errors
/// No thread can be had.
///
/// # Panics
/// When a number does not lie in the buffer, or is not aligned.
pub fn counting<T>(
    buffer: &Buffer,
    first: usize,
    second: usize,
    body: impl FnOnce() -> T,
) -> std::io::Result<T> {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let address = |at: usize| {
        assert!(at.is_multiple_of(8) && at + 8 <= buffer.len(), "no number at byte {at}");
        buffer.at(at) as usize
    };
    let (first, second) = (address(first), address(second));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Dropped before the scope waits for the thread, however `body` ends.
        let _stop = Stop(&stop);
        let builder = std::thread::Builder::new().name("race-count".to_owned());
        // SAFETY: both lie in the buffer and are aligned, see `address`. It is borrowed until the scope has joined the
        // thread, and accessed through raw pointers only.
        builder.spawn_scoped(scope, || unsafe { count(first, second, &stop) })?;
        Ok(body())
    })
}

/// Counts until told to stop.
///
/// # Safety
/// Both are addresses of eight aligned, writable bytes that stay mapped until this returns, and to which there is no
/// reference.
unsafe fn count(first: usize, second: usize, stop: &AtomicBool) {
    let (first, second) = (first as *mut u64, second as *mut u64);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        // SAFETY: by the caller. The fence keeps the order of the stores.
        unsafe {
            first.write_volatile(number);
            std::sync::atomic::fence(Ordering::SeqCst);
            second.write_volatile(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::stamp::POISON;

    #[test]
    fn a_buffer_on_a_stack_and_one_of_a_file_are_poisoned_pages() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * PAGE as u64).unwrap();
        let mapped = Buffer::of_file(&file, PAGE as u64, PAGE, true).unwrap();
        for buffer in [Buffer::new(Memory::Stack, PAGE).unwrap(), mapped] {
            assert_eq!((buffer.len(), buffer.ptr() as usize % PAGE), (PAGE, 0));
            assert!(buffer.bytes(0, PAGE).iter().all(|&byte| byte == POISON));
        }
        let bytes = crate::kit::sys::contents(&file).unwrap();
        assert_eq!((bytes[PAGE - 1], bytes[PAGE], bytes[2 * PAGE]), (0, POISON, 0));
        assert!(Buffer::new(Memory::Zero, PAGE).unwrap().bytes(0, PAGE).iter().all(|&b| b == 0));
    }

    #[test]
    fn who_counts_stops_however_the_body_ends() {
        let buffer = Buffer::new(Memory::Anon, PAGE).unwrap();
        buffer.fill(0, PAGE, 0);
        let start = buffer.bytes(0, 8);
        let panics = std::panic::AssertUnwindSafe(|| {
            counting(&buffer, 0, 8, || {
                while buffer.bytes(0, 8) == start {
                    std::thread::yield_now();
                }
                panic!("in the middle");
            })
        });
        assert!(std::panic::catch_unwind(panics).is_err());
        let number = buffer.bytes(0, 8);
        assert_ne!(number, start);
        assert_eq!(number, buffer.bytes(8, 8), "nobody is between the two stores");
    }

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
