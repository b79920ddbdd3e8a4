//! Which blocks are free.
//!
//! Two bitmaps. `disk` is what the next commit will say. `busy` is what the allocator avoids: it
//! also holds blocks that were handed out but are not yet part of a file, blocks freed in the
//! running transaction (the last commit still uses them), freed blocks under I/O, and the reserve
//! of the metadata area.
//!
//! ```text
//! allocate: busy=1          -> data is written -> publish: disk=1      -> commit
//! free:     disk=0 (busy=1) -> commit          -> nobody pins it: busy=0
//! ```
//!
//! A group of blocks that is all free or all taken is two numbers; the bits of the others are read
//! from the last commit when somebody needs them, and forgotten again when they are clean. So the
//! cost of a filesystem does not depend on its size.
//!
//! Lock order: `state`, then either [`Pins`] or the reserve. The bits are loaded under `state`, so
//! nobody takes `state` from inside the database: the metadata area uses the reserve alone.

pub(crate) mod bits;
mod counts;
mod reserve;
mod state;

use crate::errno::Result;
use crate::image::pins::{Pins, Run};
use crate::mutant::{self, Mutant};
pub use counts::COUNTS_GROUPS;
use parking_lot::Mutex;
use reserve::Reserve;
use state::{Group, State};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

/// Blocks in an allocation group: one row of 1 KiB, 32 MiB of data.
pub const GROUP_BLOCKS: u64 = 8192;
/// Gives the bits of a group as the last commit has them; `None` when it has no row.
pub type Rows = Box<dyn Fn(u64) -> Result<Option<Vec<u8>>> + Send + Sync>;

/// The allocator.
pub struct Space {
    state: Mutex<State>,
    reserve: Mutex<Reserve>,
    pins: Arc<Pins>,
    rows: OnceLock<Rows>,
    /// Changes under `state` alone.
    total: AtomicU64,
    floor: u64,
}

/// Rows that a commit must store; `None` removes one.
#[derive(Debug, Default)]
pub struct DirtyRows {
    /// By group.
    pub groups: Vec<(u64, Option<Vec<u8>>)>,
    /// By number of [`COUNTS_GROUPS`] groups.
    pub counts: Vec<(u64, Option<Vec<u8>>)>,
}

/// Numbers for statfs(2) and for `inflight stat`, in blocks.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Usage {
    /// Size of the filesystem.
    pub total: u64,
    /// In no file, chunk or superblock.
    pub free: u64,
    /// Free and open to file data.
    pub available: u64,
    /// Freed, waiting for a commit or for the end of an I/O.
    pub waiting: u64,
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl Space {
    /// An allocator over `total` blocks in which everything is free.
    pub fn new(total: u64, pins: Arc<Pins>) -> Space {
        let floor = (total / 64).clamp(512, 8192).min(total / 4);
        Space {
            state: Mutex::new(State::new(total)),
            reserve: Mutex::default(),
            pins,
            rows: OnceLock::new(),
            total: total.into(),
            floor,
        }
    }

    /// Says where the bits of groups come from that are neither all free nor all taken.
    ///
    /// # Panics
    /// When it is said twice.
    pub fn load_from(&self, rows: Rows) {
        assert!(self.rows.set(rows).is_ok(), "the allocator has one database");
    }

    /// The pins that hold blocks back.
    pub fn pins(&self) -> &Arc<Pins> {
        &self.pins
    }

    /// Takes the numbers of free blocks of some groups from the database.
    pub fn load_counts(&self, index: u64, row: &[u8]) {
        self.state.lock().counts.decode(index, row);
    }

    /// Marks blocks as used whatever the bitmap says: superblocks and metadata chunks.
    pub fn claim(&self, run: Run) {
        self.state.lock().change(self, run, Some(true), Some(true));
    }

    /// The rows that changed since the last call; the commit stores them.
    pub fn take_dirty(&self) -> DirtyRows {
        let mut st = self.state.lock();
        // The area grew into these, in the last commit or since.
        let taken = self.reserve.lock().take_taken();
        taken.into_iter().for_each(|run| st.change(self, run, Some(true), None));
        st.take_dirty()
    }

    /// Hands out up to `want` contiguous blocks for file data, at `goal` if that is free, else near
    /// where the last request ended. The blocks stay unknown to the disk until [`Space::publish`].
    /// `None` when nothing is left but the reserve.
    pub fn allocate(&self, want: u64, goal: Option<u64>) -> Option<Run> {
        let mut st = self.state.lock();
        let allowed = st.counts.busy().min(want);
        if allowed == 0 {
            return None;
        }
        let from = goal.filter(|g| *g < self.total() && st.is_free(self, *g)).unwrap_or(st.cursor);
        let run = st.find(self, from, allowed)?;
        st.change(self, run, None, Some(true));
        st.cursor = run.end();
        Some(run)
    }

    /// Takes back blocks that never became part of a file.
    pub fn unallocate(&self, run: Run) {
        self.state.lock().change(self, run, None, Some(false));
    }

    /// The blocks are part of a file now, in the running transaction.
    pub fn publish(&self, run: Run) {
        self.state.lock().change(self, run, Some(true), None);
    }

    /// The blocks left their file in the running transaction.
    pub fn free(&self, run: Run) {
        let mut st = self.state.lock();
        let at_once = mutant::is(Mutant::ReuseBeforeCommit);
        st.change(self, run, Some(false), at_once.then_some(false));
        st.freed.extend((!at_once).then_some(run));
    }

    /// The running transaction was committed: what it freed may be reused once nobody pins it.
    pub fn committed(&self) {
        let free = self.settle();
        self.reopen(&free);
    }

    /// As [`Space::committed`], but what may be reused waits for [`Space::reopen`].
    pub fn settle(&self) -> Vec<Run> {
        let mut st = self.state.lock();
        st.uncommitted.clear();
        let mut waiting = std::mem::take(&mut st.freed);
        if !mutant::is(Mutant::KeepPinnedBlocks) {
            waiting.append(&mut st.pinned);
        }
        let (free, busy) = self.pins.sort_out(waiting);
        st.pinned.extend(busy);
        free
    }

    /// Opens what [`Space::settle`] gave to those who allocate.
    pub fn reopen(&self, free: &[Run]) {
        let mut st = self.state.lock();
        free.iter().for_each(|run| st.change(self, *run, None, Some(false)));
    }

    /// True when a commit could make blocks available.
    pub fn would_gain(&self) -> bool {
        let st = self.state.lock();
        !st.freed.is_empty() || !st.pinned.is_empty()
    }

    /// True while there is room for new names and inodes; deletes may go deeper.
    pub fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// Blocks that new names and inodes may still take.
    pub fn room(&self) -> u64 {
        self.left().saturating_sub(self.floor / 4 * 3)
    }

    /// True when so little is free that transactions must stay small.
    pub fn is_low(&self) -> bool {
        self.left() < self.floor * 2
    }

    /// Blocks that are free, or set aside for the metadata area.
    fn left(&self) -> u64 {
        let st = self.state.lock();
        st.counts.busy() + self.reserve.lock().blocks()
    }

    /// Blocks that are set aside for the metadata area.
    pub fn reserved(&self) -> u64 {
        self.reserve.lock().blocks()
    }

    /// Sets `want` blocks aside for the metadata area, or as many as there are: behind those that
    /// are set aside already, or behind `after`. More than the floor is taken only while it is a
    /// small part of what is free.
    pub fn reserve(&self, want: u64, after: Option<u64>) {
        let mut st = self.state.lock();
        let most = self.floor.max(st.counts.busy() / 4);
        loop {
            let (have, end) = {
                let reserve = self.reserve.lock();
                (reserve.blocks(), reserve.end())
            };
            let missing = want.min(most).saturating_sub(have);
            let allowed = missing.min(st.counts.busy());
            if allowed == 0 {
                return;
            }
            let from = end.or(after).filter(|b| *b < self.total()).unwrap_or(0);
            let Some(run) = st.find(self, from, allowed) else { return };
            st.change(self, run, None, Some(true));
            self.reserve.lock().put(run);
        }
    }

    /// Blocks for the metadata area out of the reserve; see `Reserve::take`.
    pub fn take_reserved(&self, want: u64, after: Option<u64>) -> Option<Run> {
        self.reserve.lock().take(want, after)
    }

    /// The part of `range` that is set aside and holds `block`, for the metadata area.
    pub fn take_reserved_around(&self, block: u64, range: std::ops::Range<u64>) -> Option<Run> {
        self.reserve.lock().take_around(block, range)
    }

    /// What is set aside and not planned for anything; see `Reserve::spare`.
    pub fn reserved_spare(&self, planned: &[Run]) -> Option<Run> {
        self.reserve.lock().spare(planned)
    }

    /// Sets one run aside for the metadata area, of `want` blocks or as many as there are in one
    /// place, at `after` if that is free. `None` when that would take too much of what is free.
    pub fn reserve_run(&self, want: u64, after: Option<u64>) -> Option<Run> {
        let mut st = self.state.lock();
        let allowed = want.min(st.counts.busy() / 4);
        let from = after.filter(|b| *b < self.total()).unwrap_or(0);
        let run = (allowed > 0).then(|| st.find(self, from, allowed)).flatten()?;
        st.change(self, run, None, Some(true));
        self.reserve.lock().put(run);
        Some(run)
    }

    /// Opens what is reserved beyond the floor to file data; true when that was anything.
    pub fn relinquish(&self) -> bool {
        let mut st = self.state.lock();
        let back = self.reserve.lock().give_back(self.floor);
        let any = !back.is_empty();
        back.into_iter().for_each(|run| st.change(self, run, None, Some(false)));
        any
    }

    /// The next free run of at least `min` blocks in `[from, to)`, for FITRIM, cut so that most of
    /// what is free stays open to others meanwhile. It is taken out of the allocator; give it back
    /// with [`Space::unallocate`].
    pub fn take_free_run(&self, from: u64, to: u64, min: u64) -> Option<Run> {
        let mut st = self.state.lock();
        let most = (st.counts.busy() / 4).clamp(1, 16 * GROUP_BLOCKS).max(min);
        let mut at = from;
        while let Some(run) = st.next_free(self, at, to.min(self.total()), most) {
            if run.blocks >= min.max(1) {
                st.change(self, run, None, Some(true));
                return Some(run);
            }
            at = run.end();
        }
        None
    }

    /// Size of the filesystem in blocks.
    pub fn total(&self) -> u64 {
        self.total.load(SeqCst)
    }

    /// The last group will be longer. From the next commit on its row says, whatever its length, what is free in it: a group
    /// that is all free has none else, and would be taken for one that lost it. `false` when that was said before.
    pub fn expect_growth(&self) -> bool {
        let mut st = self.state.lock();
        if std::mem::replace(&mut st.grows, true) {
            return false;
        }
        let last = (self.total() - 1) / GROUP_BLOCKS;
        st.group(self, last);
        st.dirty.insert(last);
        true
    }

    /// The superblock speaks of `total` blocks now, which are more than before. What is new is free.
    pub fn grow(&self, total: u64) {
        let mut st = self.state.lock();
        let old = self.total();
        let last = (old - 1) / GROUP_BLOCKS;
        st.group(self, last);
        let added = st.counts.grow(total);
        if let Some(Group::Known { disk, busy }) = st.loaded.get_mut(&last) {
            let from = old - last * GROUP_BLOCKS;
            for bits in [disk, busy] {
                bits.set(from, from + added, false);
            }
        }
        self.total.store(total, SeqCst);
        st.dirty.insert(last);
        st.grows = false;
    }

    /// As [`Space::expect_growth`] was never said.
    pub fn stay(&self) {
        let mut st = self.state.lock();
        st.grows = false;
        st.dirty.insert((self.total() - 1) / GROUP_BLOCKS);
    }

    /// The numbers of now.
    pub fn usage(&self) -> Usage {
        let st = self.state.lock();
        Usage {
            total: self.total(),
            free: st.counts.disk(),
            available: st.counts.busy() + self.reserve.lock().blocks().saturating_sub(self.floor),
            waiting: st.freed.iter().chain(&st.pinned).map(|r| r.blocks).sum(),
        }
    }
}

#[cfg(test)]
mod tests;
