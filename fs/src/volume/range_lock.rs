//! Locks on ranges of a file's blocks, so that two writers never merge the same block at once.
//!
//! Readers take none: a pin is enough for them. A range is held during device I/O of bounded
//! length and never while a request is parked.

use crate::mutant::{self, Mutant};
use crate::sync::{Condvar, Mutex};
use std::ops::Range;

/// The ranges of one file that are being written.
#[derive(Debug, Default)]
pub struct RangeLock {
    held: Mutex<Vec<Range<u64>>>,
    freed: Condvar,
}

impl RangeLock {
    /// Waits until nobody else writes any block of `range`, then holds it.
    pub fn lock(&self, range: Range<u64>) -> RangeGuard<'_> {
        let mut held = self.held.lock();
        while overlaps(&held, &range) {
            self.freed.wait(&mut held);
        }
        held.push(range.clone());
        RangeGuard { lock: self, range }
    }

    /// Holds `range`, unless somebody else writes a block of it now.
    pub fn try_lock(&self, range: Range<u64>) -> Option<RangeGuard<'_>> {
        let mut held = self.held.lock();
        if overlaps(&held, &range) {
            return None;
        }
        held.push(range.clone());
        Some(RangeGuard { lock: self, range })
    }

    /// Whether somebody writes a block of `range` now.
    pub fn is_held(&self, range: &Range<u64>) -> bool {
        overlaps(&self.held.lock(), range)
    }
}

fn overlaps(held: &[Range<u64>], range: &Range<u64>) -> bool {
    held.iter().any(|h| h.start < range.end && range.start < h.end)
}

/// Releases its range when dropped.
#[derive(Debug)]
pub struct RangeGuard<'a> {
    lock: &'a RangeLock,
    range: Range<u64>,
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.lock.held.lock();
        if let Some(at) = held.iter().position(|h| *h == self.range) {
            held.swap_remove(at);
        }
        if mutant::is(Mutant::WakeOneWaiter) {
            self.lock.freed.notify_one();
        } else {
            self.lock.freed.notify_all();
        }
    }
}

#[cfg(all(test, not(feature = "schedules")))]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    #[test]
    fn disjoint_ranges_do_not_wait_and_overlapping_ones_do() {
        let lock = RangeLock::default();
        let a = lock.lock(0..4);
        let _b = lock.lock(4..8);
        assert!(lock.try_lock(3..5).is_none() && lock.try_lock(8..9).is_some());
        assert!(lock.is_held(&(3..4)) && lock.is_held(&(7..9)) && !lock.is_held(&(8..9)));
        let (entered, barrier) = (AtomicBool::new(false), Barrier::new(2));
        std::thread::scope(|s| {
            s.spawn(|| {
                barrier.wait();
                let _c = lock.lock(2..3);
                entered.store(true, SeqCst);
            });
            barrier.wait();
            assert!(!entered.load(SeqCst));
            drop(a);
        });
        assert!(entered.load(SeqCst));
    }
}
