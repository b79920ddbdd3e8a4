//! The one zero page.
#![allow(unsafe_code)]

use std::io;
use std::sync::OnceLock;

use inflight_dio::page_size;

/// A page of zeroes that nothing ever writes: a private anonymous mapping without write permission,
/// so the kernel backs it with its own zero page (mm/memory.c, `do_anonymous_page`). It is made
/// once and stays for the life of the process. Nobody pins, counts or releases it: as the kernel
/// learned for iomap and vfio, a page that goes nowhere needs no reference.
///
/// # Errors
/// `ENOMEM` from the first mmap(2); a later call tries again.
pub fn zero_page() -> io::Result<&'static [u8]> {
    static PAGE: OnceLock<&'static [u8]> = OnceLock::new();
    if let Some(page) = PAGE.get() {
        return Ok(page);
    }
    let page = map()?;
    Ok(PAGE.get_or_init(|| page))
}

fn map() -> io::Result<&'static [u8]> {
    let len = page_size();
    // SAFETY: an anonymous mapping at an address of the kernel's choice replaces nothing.
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `len` readable bytes that are never unmapped and that nobody can write.
    Ok(unsafe { std::slice::from_raw_parts(p.cast(), len) })
}
