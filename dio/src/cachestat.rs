//! How much of a range of a file the page cache has.
#![allow(unsafe_code)]

use nix::errno::Errno;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `struct cachestat_range` and `struct cachestat` (include/uapi/linux/mman.h).
#[repr(C)]
#[derive(Default)]
struct Range {
    off: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// The same number on every architecture (since 424 there is one table).
const SYS_CACHESTAT: libc::c_long = 451;

/// Number of pages of bytes `offset..offset + len` that are in the page cache of `file`: cachestat(2),
/// Linux 6.5. It looks at one entry of the cache for each folio, and reads nothing.
///
/// # Errors
/// ENOSYS on an older kernel, EPERM for a file that the caller neither owns nor may write.
pub fn cached_pages(file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<u64, Errno> {
    Ok(cachestat(file, offset, len)?.cached)
}

/// Number of pages of `file` that the device does not have yet: changed, or on their way.
///
/// # Errors
/// As of [`cached_pages`].
pub fn unwritten_pages(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    // A length of 0 is all that follows.
    let counts = cachestat(file, 0, 0)?;
    Ok(counts.dirty + counts.writeback)
}

fn cachestat(file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Counts, Errno> {
    let (range, mut counts) = (Range { off: offset, len }, Counts::default());
    // SAFETY: the kernel reads `range` and writes `counts`, which have its layout and outlive the call.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut counts, 0)
    };
    Errno::result(result)?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_size;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    #[test]
    fn pages_that_were_written_are_in_the_cache_and_holes_are_not() {
        let page = page_size();
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&vec![7; 4 * page]).expect("write");
        file.set_len(16 * page as u64).expect("ftruncate");
        let count = |from: usize, pages: usize| {
            cached_pages(file.as_fd(), (from * page) as u64, (pages * page) as u64)
        };
        match count(0, 4) {
            Err(Errno::ENOSYS) => eprintln!("skipped: cachestat(2) came with Linux 6.5"),
            found => assert_eq!(found, Ok(4)),
        }
        if let Ok(holes) = count(4, 12) {
            assert_eq!((holes, count(2, 4)), (0, Ok(2)));
        }
        file.sync_all().expect("fsync");
        if let Ok(unwritten) = unwritten_pages(file.as_fd()) {
            // On tmpfs they stay what they are.
            let is_memory = nix::sys::statfs::fstatfs(&file).expect("fstatfs").filesystem_type()
                == nix::sys::statfs::TMPFS_MAGIC;
            assert!(is_memory || unwritten == 0, "{unwritten} pages after fsync");
        }
    }
}
