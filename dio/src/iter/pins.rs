//! What can pin a page from user space.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;

use io_uring::IoUring;
use parking_lot::Mutex;

use crate::iter::{PinBackend, PinToken};
use crate::mapping::{align_up, page_size};

/// Leaves it to the kernel, which pins user pages by itself for the length of a direct transfer
/// (block/bio.c, `bio_iov_iter_get_pages`). Right for a system call that returns when the device
/// is done; between two calls nothing is pinned.
#[derive(Debug, Default, Clone, Copy)]
pub struct KernelPins;

impl PinBackend for KernelPins {
    fn pin(&self, _address: usize, _len: usize) -> io::Result<PinToken> {
        Ok(PinToken(0))
    }

    fn unpin(&self, _token: PinToken) {}
}

/// mlock(2), counted for each page: mlock itself does not nest. Keeps pages from being swapped,
/// not from being migrated, and not from copy-on-write after a fork.
///
/// Memory that something else in the process locks must not pass through here: the last unpin
/// unlocks it.
#[derive(Debug, Default)]
pub struct MlockPins {
    state: Mutex<Locked>,
}

#[derive(Debug, Default)]
struct Locked {
    pages: HashMap<usize, u32>,
    ranges: HashMap<u64, (usize, usize)>,
    next: u64,
}

impl MlockPins {
    /// Nothing locked.
    pub fn new() -> Self {
        Self::default()
    }

    /// Pages that are locked now.
    pub fn pages(&self) -> usize {
        self.state.lock().pages.len()
    }
}

impl PinBackend for MlockPins {
    fn pin(&self, address: usize, len: usize) -> io::Result<PinToken> {
        let mut state = self.state.lock();
        // SAFETY: mlock changes no byte; an address that is not mapped is ENOMEM.
        if unsafe { libc::mlock(address as *const _, len) } != 0 {
            let e = io::Error::last_os_error();
            state.unlock_unused(address, len);
            return Err(e);
        }
        for page in pages_of(address, len) {
            *state.pages.entry(page).or_insert(0) += 1;
        }
        state.next += 1;
        let token = state.next;
        state.ranges.insert(token, (address, len));
        Ok(PinToken(token))
    }

    fn unpin(&self, token: PinToken) {
        let mut state = self.state.lock();
        let (address, len) = state.ranges.remove(&token.0).expect("unpinned twice");
        for page in pages_of(address, len) {
            let count = state.pages.get_mut(&page).expect("a pinned page is counted");
            *count -= 1;
            if *count == 0 {
                state.pages.remove(&page);
            }
        }
        state.unlock_unused(address, len);
    }
}

impl Locked {
    /// Unlocks the pages of a range that no pin counts.
    fn unlock_unused(&self, address: usize, len: usize) {
        for page in pages_of(address, len).filter(|page| !self.pages.contains_key(page)) {
            // SAFETY: munlock changes no byte; a page that is gone is ENOMEM, and then unlocked.
            unsafe { libc::munlock(page as *const _, page_size()) };
        }
    }
}

/// Slots of a sparse io_uring buffer table: `FOLL_PIN | FOLL_LONGTERM` on the pages themselves
/// (io_uring/rsrc.c), so they neither move nor are shared with a child.
pub struct RingPins {
    ring: IoUring,
    vacant: Mutex<Vec<u32>>,
}

impl RingPins {
    /// Room for `slots` pins at a time, 1 to 16384.
    ///
    /// # Errors
    /// `EPERM`, `ENOSYS`: io_uring is refused. `EINVAL`: no sparse tables (Linux before 5.19).
    pub fn new(slots: u32) -> io::Result<Self> {
        let ring = IoUring::new(1)?;
        ring.submitter().register_buffers_sparse(slots)?;
        Ok(Self { ring, vacant: Mutex::new((0..slots).collect()) })
    }

    fn set(&self, slot: u32, range: libc::iovec) -> io::Result<()> {
        // SAFETY: the ring runs no requests, so the kernel never reads or writes these buffers; it
        // only holds their pages, and the caller of `pin` keeps the memory until `unpin`.
        unsafe { self.ring.submitter().register_buffers_update(slot, &[range], None) }?;
        Ok(())
    }
}

impl PinBackend for RingPins {
    fn pin(&self, address: usize, len: usize) -> io::Result<PinToken> {
        let again = || io::Error::from_raw_os_error(libc::EAGAIN);
        let slot = self.vacant.lock().pop().ok_or_else(again)?;
        let range = libc::iovec { iov_base: address as *mut _, iov_len: len };
        match self.set(slot, range) {
            Ok(()) => Ok(PinToken(u64::from(slot))),
            Err(e) => {
                self.vacant.lock().push(slot);
                Err(e)
            }
        }
    }

    fn unpin(&self, token: PinToken) {
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let slot = u32::try_from(token.0).expect("a token of this backend");
        self.set(slot, empty).expect("an empty slot is always accepted");
        self.vacant.lock().push(slot);
    }
}

impl std::fmt::Debug for RingPins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingPins").field("vacant", &self.vacant.lock().len()).finish()
    }
}

/// [`RingPins`] where that is possible, else [`KernelPins`]: where io_uring is refused, where all
/// slots are taken, over the memlock limit, and for memory that refuses a long-term pin (a mapped
/// file on kernels that forbid it).
#[derive(Debug)]
pub struct BestPins {
    ring: Option<RingPins>,
}

/// The token of a pin that was left to the kernel.
const LEFT_TO_KERNEL: PinToken = PinToken(u64::MAX);

impl BestPins {
    /// Room for 64 registered pins at a time.
    pub fn new() -> Self {
        Self { ring: RingPins::new(64).ok() }
    }
}

impl Default for BestPins {
    fn default() -> Self {
        Self::new()
    }
}

impl PinBackend for BestPins {
    fn pin(&self, address: usize, len: usize) -> io::Result<PinToken> {
        match self.ring.as_ref().map(|ring| ring.pin(address, len)) {
            Some(Ok(token)) => Ok(token),
            Some(Err(e)) if e.raw_os_error() == Some(libc::EFAULT) => Err(e),
            _ => Ok(LEFT_TO_KERNEL),
        }
    }

    fn unpin(&self, token: PinToken) {
        if let Some(ring) = self.ring.as_ref().filter(|_| token != LEFT_TO_KERNEL) {
            ring.unpin(token);
        }
    }
}

/// Addresses of the pages that a range touches.
fn pages_of(address: usize, len: usize) -> impl Iterator<Item = usize> {
    let first = address & !(page_size() - 1);
    (first..align_up(address + len, page_size())).step_by(page_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_pages_are_counted_and_unlocked_by_the_last() {
        let pins = MlockPins::new();
        let memory = vec![0u8; 3 * page_size()];
        let at = align_up(memory.as_ptr() as usize, page_size());
        let first = pins.pin(at, page_size()).unwrap();
        let second = pins.pin(at + 100, page_size()).unwrap();
        assert_eq!(pins.pages(), 2);
        pins.unpin(first);
        assert_eq!(pins.pages(), 2);
        pins.unpin(second);
        assert_eq!(pins.pages(), 0);
    }

    #[test]
    fn memory_that_is_not_there_is_an_error_and_costs_no_slot() {
        assert!(MlockPins::new().pin(page_size(), page_size()).is_err());
        let Ok(pins) = RingPins::new(1) else {
            println!("skipped: io_uring is refused");
            return;
        };
        assert!(pins.pin(page_size(), page_size()).is_err());
        let memory = vec![0u8; page_size()];
        let token = match pins.pin(memory.as_ptr() as usize, memory.len()) {
            Err(e) if e.raw_os_error() == Some(libc::ENOMEM) => {
                return println!("skipped: the memlock limit of this user is used up");
            }
            token => token.unwrap(),
        };
        assert_eq!(
            pins.pin(memory.as_ptr() as usize, 1).unwrap_err().raw_os_error(),
            Some(libc::EAGAIN)
        );
        pins.unpin(token);
        pins.unpin(pins.pin(memory.as_ptr() as usize, 1).unwrap());
    }
}
