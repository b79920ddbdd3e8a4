//! Blocks under I/O. A pinned block may be freed but not reused, as a pinned page may be unmapped
//! but not handed to somebody else (Documentation/core-api/pin_user_pages.rst).
//!
//! Lock order: `active` is a leaf.

use crate::mutant::{self, Mutant};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::collections::HashMap;
use std::sync::Arc;

/// A run of image blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First block.
    pub start: u64,
    /// Number of blocks.
    pub blocks: u64,
}

impl Run {
    /// One past the last block.
    pub fn end(&self) -> u64 {
        self.start + self.blocks
    }

    fn overlaps(&self, other: &Run) -> bool {
        self.start < other.end() && other.start < self.end()
    }
}

/// Every run that some I/O is using now.
#[derive(Debug, Default)]
pub struct Pins {
    active: Mutex<HashMap<u64, Box<[Run]>>>,
    next: AtomicU64,
}

impl Pins {
    /// Pins `runs` until the guard is dropped. Call it while the lock that maps the blocks to
    /// their file is still held, or they can be freed and reused in between.
    pub fn pin(self: &Arc<Self>, runs: Vec<Run>) -> Pin {
        let id = self.next.fetch_add(1, Relaxed);
        if !runs.is_empty() {
            self.active.lock().insert(id, runs.into_boxed_slice());
        }
        Pin { pins: self.clone(), id }
    }

    /// Number of I/Os that hold pins.
    pub fn held(&self) -> usize {
        self.active.lock().len()
    }

    /// Splits `runs` into those that nobody uses and those that somebody still does.
    pub fn sort_out(&self, runs: Vec<Run>) -> (Vec<Run>, Vec<Run>) {
        let active = self.active.lock();
        if active.is_empty() {
            return (runs, Vec::new());
        }
        let pinned = |run: &Run| active.values().flatten().any(|p| p.overlaps(run));
        let (busy, free) = runs.into_iter().partition(pinned);
        (free, busy)
    }
}

/// Holds blocks against reuse.
#[derive(Debug)]
pub struct Pin {
    pins: Arc<Pins>,
    id: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        if mutant::is(Mutant::ForgetPinRelease) {
            return;
        }
        self.pins.active.lock().remove(&self.id);
    }
}

#[cfg(all(test, not(feature = "schedules")))]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_free_only_when_no_pin_overlaps_it() {
        let pins = Arc::new(Pins::default());
        let a = pins.pin(vec![Run { start: 10, blocks: 5 }]);
        let b = pins.pin(vec![Run { start: 12, blocks: 1 }]);
        let runs = || {
            vec![
                Run { start: 0, blocks: 10 },
                Run { start: 14, blocks: 3 },
                Run { start: 12, blocks: 1 },
            ]
        };
        let (free, busy) = pins.sort_out(runs());
        assert_eq!((free.len(), busy.len()), (1, 2));
        drop(a);
        assert_eq!(pins.sort_out(runs()).0.len(), 2);
        drop(b);
        assert_eq!(pins.sort_out(runs()).0.len(), 3);
        assert_eq!(pins.held(), 0);
    }
}
