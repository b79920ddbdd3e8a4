//! Anonymous memory: one mapping, aligned, fenced, and gone on drop.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;

/// Bytes in a slab, and in a transparent huge page on x86-64 and on arm64 with 4 KiB pages.
pub const SLAB: usize = 2 << 20;

/// The page size of this machine in bytes (`sysconf(_SC_PAGESIZE)`), a power of two, at least 4096.
pub fn page_size() -> usize {
    use std::sync::OnceLock;
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        // SAFETY: sysconf reads no memory of ours; _SC_PAGESIZE is always defined on Linux.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).ok().filter(|s| s.is_power_of_two()).unwrap_or(4096)
    })
}

/// Rounds `value` up to a multiple of `align` (a power of two). Saturates at the last multiple that
/// fits a `usize`.
pub const fn align_up(value: usize, align: usize) -> usize {
    value.saturating_add(align - 1) & !(align - 1)
}

/// A private anonymous mapping, readable and writable, zeroed by the kernel, not inherited by fork.
///
/// It stands between two inaccessible pages: an overrun faults instead of corrupting a neighbour,
/// and the kernel cannot merge the area with another one, so its line in `/proc/self/smaps` speaks
/// of this memory alone.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    reserved: NonNull<c_void>,
    reserved_len: usize,
}

// SAFETY: a Mapping is an address range that it alone unmaps; nothing in it belongs to a thread.
unsafe impl Send for Mapping {}
// SAFETY: the shared methods only read the two immutable fields `base` and `len`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps at least `len` bytes (rounded up to pages) at an address that is a multiple of `align`
    /// (a power of two, at least a page).
    ///
    /// # Errors
    /// `ENOMEM` from mmap(2): no memory, no address space, or too many mappings.
    pub(crate) fn new(len: usize, align: usize) -> io::Result<Self> {
        let page = page_size();
        let len = align_up(len.max(1), page);
        let reserved_len = len
            .checked_add(align)
            .and_then(|n| n.checked_add(page))
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let reserved = reserve(reserved_len)?;
        let start = align_up(reserved.as_ptr() as usize + page, align);
        let base = NonNull::new(start as *mut u8).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Self { base, len, reserved, reserved_len };
        // SAFETY: [base, base+len) lies inside the reservation made above: `start` is at most
        // `align` past its first byte and a page is left behind the end.
        let rc = unsafe {
            libc::mprotect(base.as_ptr().cast(), len, libc::PROT_READ | libc::PROT_WRITE)
        };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
        // A child of fork must not share these pages: with the mapping left out of the child,
        // no copy-on-write can take a page under DMA away from this process.
        mapping.advise(libc::MADV_DONTFORK)?;
        Ok(mapping)
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The address `offset` bytes in.
    ///
    /// # Panics
    /// When that is not inside the mapping.
    pub(crate) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.len);
        // SAFETY: inside the mapping, by the line above.
        unsafe { self.base.add(offset) }
    }

    /// madvise(2) on the whole mapping.
    pub(crate) fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        debug_assert!(advice != libc::MADV_DONTNEED && advice != libc::MADV_FREE);
        // SAFETY: the range is ours, and no advice used here drops its contents.
        let rc = unsafe { libc::madvise(self.base.as_ptr().cast(), self.len, advice) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Makes every page present. MADV_POPULATE_WRITE (Linux 5.14), or one write to each page.
    pub(crate) fn populate(&self) -> io::Result<()> {
        match self.advise(libc::MADV_POPULATE_WRITE) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                for at in (0..self.len).step_by(page_size()) {
                    // SAFETY: `at` is inside the mapping, which nobody else uses yet: populate is
                    // called before the mapping is shared.
                    unsafe { self.base.as_ptr().add(at).write_volatile(0) };
                }
                Ok(())
            }
            other => other,
        }
    }

    /// mlock(2) on `len` bytes from the start of the mapping. Undone by the unmap.
    pub(crate) fn lock(&self, len: usize) -> io::Result<()> {
        // SAFETY: the range is ours and mlock does not change its contents.
        let rc = unsafe { libc::mlock(self.base.as_ptr().cast(), len.min(self.len)) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Bytes of this mapping that transparent huge pages back, from `/proc/self/smaps`.
    pub(crate) fn huge_bytes(&self) -> io::Result<usize> {
        let smaps = std::fs::read_to_string("/proc/self/smaps")?;
        let head = format!("{:x}-", self.base.as_ptr() as usize);
        let mut inside = false;
        for line in smaps.lines() {
            let first = line.split(' ').next().unwrap_or_default();
            if !first.ends_with(':') {
                inside = line.starts_with(&head);
            } else if inside && first == "AnonHugePages:" {
                let kib = line.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok());
                return Ok(kib.unwrap_or(0) * 1024);
            }
        }
        Ok(0)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the reservation was made by `new`, is unmapped only here, and the owner of the
        // Mapping keeps it for as long as any pointer into it is in use.
        let rc = unsafe { libc::munmap(self.reserved.as_ptr(), self.reserved_len) };
        debug_assert_eq!(rc, 0, "munmap of our own reservation");
    }
}

fn reserve(len: usize) -> io::Result<NonNull<c_void>> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice replaces nothing.
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(p).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_aligned_as_asked() {
        for align in [page_size(), 64 << 10, SLAB] {
            let m = Mapping::new(3 * page_size() + 1, align).unwrap();
            assert_eq!(m.base().as_ptr() as usize % align, 0);
            assert_eq!(m.len(), 4 * page_size());
            m.populate().unwrap();
        }
    }

    #[test]
    fn a_length_beyond_the_address_space_is_an_error() {
        assert!(Mapping::new(usize::MAX - 1, SLAB).is_err());
    }

    #[test]
    fn align_up_keeps_multiples() {
        assert_eq!(align_up(0, 4096), 0);
        assert_eq!(align_up(1, 4096), 4096);
        assert_eq!(align_up(4096, 4096), 4096);
    }
}
