//! Which blocks are free.
//!
//! Two bitmaps. `disk` is what the next commit will say. `busy` is what the allocator avoids: it
//! also holds blocks that were handed out but are not yet part of a file, blocks freed in the
//! running transaction (the last commit still uses them) and freed blocks under I/O.
//!
//! ```text
//! allocate: busy=1          -> data is written -> publish: disk=1      -> commit
//! free:     disk=0 (busy=1) -> commit          -> nobody pins it: busy=0
//! ```
//!
//! Lock order: `state`, then [`Pins`].

use crate::image::pins::{Pins, Run};
use crate::mutant::{self, Mutant};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Blocks in an allocation group: one row of 1 KiB, 32 MiB of data.
pub const GROUP_BLOCKS: u64 = 8192;
/// Groups that are searched for a run that is long enough before the longest one is taken.
const GROUPS_SEARCHED: u64 = 64;
const WORDS: usize = (GROUP_BLOCKS / 64) as usize;

/// Who asks, which decides how deep into the reserve the request may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// File data: leaves the whole reserve alone.
    Data,
    /// The metadata area: may use everything.
    Metadata,
}

/// The allocator.
#[derive(Debug)]
pub struct Space {
    state: Mutex<State>,
    pins: Arc<Pins>,
    total: u64,
    reserve: u64,
}

#[derive(Debug)]
struct State {
    busy: Bitmap,
    disk: Bitmap,
    dirty: BTreeSet<u64>,
    /// Freed since the last commit.
    freed: Vec<Run>,
    /// Freed and committed, but pinned when last looked at.
    pinned: Vec<Run>,
    cursor: u64,
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

impl Space {
    /// An allocator over `total` blocks in which everything is free.
    pub fn new(total: u64, pins: Arc<Pins>) -> Space {
        let reserve = (total / 64).clamp(512, 8192).min(total / 4);
        let state = State {
            busy: Bitmap::new(total),
            disk: Bitmap::new(total),
            dirty: BTreeSet::new(),
            freed: Vec::new(),
            pinned: Vec::new(),
            cursor: 0,
        };
        Space { state: Mutex::new(state), pins, total, reserve }
    }

    /// The pins that hold blocks back.
    pub fn pins(&self) -> &Arc<Pins> {
        &self.pins
    }

    /// Takes the bitmap row of one group from the database. Extra bits are ignored.
    pub fn load_group(&self, group: u64, row: &[u8]) {
        let mut st = self.state.lock();
        st.disk.load(group, row);
        st.busy.load(group, row);
    }

    /// Marks blocks as used whatever the bitmap says: superblocks and metadata chunks.
    pub fn claim(&self, run: Run) {
        let mut st = self.state.lock();
        if st.disk.set_range(run, true) > 0 {
            st.touch(run);
        }
        st.busy.set_range(run, true);
    }

    /// Every group as it would be stored, for mkfs and fsck.
    pub fn rows(&self) -> Vec<(u64, Vec<u8>)> {
        let st = self.state.lock();
        (0..self.total.div_ceil(GROUP_BLOCKS)).map(|g| (g, st.disk.row(g))).collect()
    }

    /// The rows that changed since the last call; the commit stores them.
    pub fn take_dirty(&self) -> Vec<(u64, Vec<u8>)> {
        let mut st = self.state.lock();
        let dirty = std::mem::take(&mut st.dirty);
        dirty.into_iter().map(|g| (g, st.disk.row(g))).collect()
    }

    /// Hands out up to `want` contiguous blocks, at `goal` if that is free, else near where the
    /// last request ended. The blocks stay unknown to the disk until [`Space::publish`].
    /// `None` when the class may take no more.
    pub fn allocate(&self, want: u64, goal: Option<u64>, class: Class) -> Option<Run> {
        let mut st = self.state.lock();
        let floor = if class == Class::Data { self.reserve } else { 0 };
        let allowed = st.busy.free.saturating_sub(floor).min(want);
        if allowed == 0 {
            return None;
        }
        let from = goal.filter(|g| *g < self.total && !st.busy.get(*g)).unwrap_or(st.cursor);
        let run = st.busy.find(from, allowed)?;
        st.busy.set_range(run, true);
        st.cursor = run.end();
        Some(run)
    }

    /// Takes back blocks that never became part of a file.
    pub fn unallocate(&self, run: Run) {
        self.state.lock().busy.set_range(run, false);
    }

    /// The blocks are part of a file now, in the running transaction.
    pub fn publish(&self, run: Run) {
        let mut st = self.state.lock();
        st.disk.set_range(run, true);
        st.touch(run);
    }

    /// The blocks left their file in the running transaction.
    pub fn free(&self, run: Run) {
        let mut st = self.state.lock();
        st.disk.set_range(run, false);
        st.touch(run);
        st.freed.push(run);
    }

    /// The running transaction was committed: what it freed may be reused once nobody pins it.
    pub fn committed(&self) {
        let mut st = self.state.lock();
        let mut waiting = std::mem::take(&mut st.freed);
        if !mutant::is(Mutant::KeepPinnedBlocks) {
            waiting.append(&mut st.pinned);
        }
        let (free, busy) = self.pins.sort_out(waiting);
        for run in free {
            st.busy.set_range(run, false);
        }
        st.pinned.extend(busy);
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
        self.state.lock().busy.free.saturating_sub(self.reserve / 4 * 3)
    }

    /// True when so little is free that transactions must stay small.
    pub fn is_low(&self) -> bool {
        self.state.lock().busy.free < self.reserve * 2
    }

    /// The next free run of at least `min` blocks in `[from, to)`, for FITRIM, cut so that most of
    /// what is free stays open to others meanwhile. It is taken out of the allocator; give it back
    /// with [`Space::unallocate`].
    pub fn take_free_run(&self, from: u64, to: u64, min: u64) -> Option<Run> {
        let mut st = self.state.lock();
        let most = (st.busy.free / 4).clamp(1, GROUP_BLOCKS).max(min);
        let mut at = from;
        while let Some(run) = st.busy.next_free(at, to.min(self.total), most) {
            if run.blocks >= min.max(1) {
                st.busy.set_range(run, true);
                return Some(run);
            }
            at = run.end();
        }
        None
    }

    /// The numbers of now.
    pub fn usage(&self) -> Usage {
        let st = self.state.lock();
        Usage {
            total: self.total,
            free: st.disk.free,
            available: st.disk.free.saturating_sub(self.reserve),
            waiting: st.freed.iter().chain(&st.pinned).map(|r| r.blocks).sum(),
        }
    }
}

impl State {
    fn touch(&mut self, run: Run) {
        for group in run.start / GROUP_BLOCKS..=(run.end() - 1) / GROUP_BLOCKS {
            self.dirty.insert(group);
        }
    }
}

/// One bit a block, 1 = taken, with the number of free blocks overall and in each group.
#[derive(Debug)]
struct Bitmap {
    words: Vec<u64>,
    group_free: Vec<u32>,
    free: u64,
    len: u64,
}

impl Bitmap {
    fn new(len: u64) -> Bitmap {
        let groups = len.div_ceil(GROUP_BLOCKS);
        let mut map = Bitmap {
            words: vec![0; groups as usize * WORDS],
            group_free: vec![GROUP_BLOCKS as u32; groups as usize],
            free: groups * GROUP_BLOCKS,
            len,
        };
        // The bits past the end stay taken for ever.
        map.set_range(Run { start: len, blocks: groups * GROUP_BLOCKS - len }, true);
        map
    }

    fn get(&self, block: u64) -> bool {
        self.words[(block / 64) as usize] & (1 << (block % 64)) != 0
    }

    fn load(&mut self, group: u64, row: &[u8]) {
        let Some(have) = self.group_free.get(group as usize).copied() else { return };
        let words = &mut self.words[group as usize * WORDS..][..WORDS];
        for (word, bytes) in words.iter_mut().zip(row.chunks_exact(8)) {
            *word |= u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
        }
        let free: u32 = words.iter().map(|w| w.count_zeros()).sum();
        self.group_free[group as usize] = free;
        self.free -= u64::from(have - free);
    }

    fn row(&self, group: u64) -> Vec<u8> {
        let words = &self.words[group as usize * WORDS..][..WORDS];
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// Sets or clears a run; returns how many bits changed.
    fn set_range(&mut self, run: Run, taken: bool) -> u64 {
        let (mut at, end, mut changed) = (run.start, run.end(), 0);
        while at < end {
            let (word, bit) = ((at / 64) as usize, at % 64);
            let n = (64 - bit).min(end - at);
            let mask = (u64::MAX >> (64 - n)) << bit;
            let old = self.words[word];
            self.words[word] = if taken { old | mask } else { old & !mask };
            let diff = (old ^ self.words[word]).count_ones();
            let free = &mut self.group_free[(at / GROUP_BLOCKS) as usize];
            *free = if taken { *free - diff } else { *free + diff };
            changed += u64::from(diff);
            at += n;
        }
        self.free = if taken { self.free - changed } else { self.free + changed };
        changed
    }

    /// The first free run at or after `from`, wrapping around, of `want` blocks; if there is none
    /// that long, the longest that was seen.
    fn find(&self, from: u64, want: u64) -> Option<Run> {
        let mut best: Option<Run> = None;
        for (lo, hi) in [(from, self.len), (0, from.min(self.len))] {
            let mut at = lo;
            while let Some(run) = self.next_free(at, hi, want) {
                // On a fragmented image the whole bitmap would be searched for every run.
                let far = best.is_some() && run.start - lo > GROUPS_SEARCHED * GROUP_BLOCKS;
                if run.blocks >= want || far {
                    return Some(best.filter(|b| b.blocks > run.blocks).unwrap_or(run));
                }
                if best.is_none_or(|b| b.blocks < run.blocks) {
                    best = Some(run);
                }
                at = run.end();
            }
        }
        best
    }

    /// The first free run in `[at, hi)`, cut at `max` blocks.
    fn next_free(&self, mut at: u64, hi: u64, max: u64) -> Option<Run> {
        while at < hi {
            if at.is_multiple_of(GROUP_BLOCKS) && self.group_free[(at / GROUP_BLOCKS) as usize] == 0
            {
                at += GROUP_BLOCKS;
                continue;
            }
            let word = self.words[(at / 64) as usize] | ((1u64 << (at % 64)) - 1);
            if word == u64::MAX {
                at = (at / 64 + 1) * 64;
                continue;
            }
            let start = at / 64 * 64 + u64::from(word.trailing_ones());
            if start >= hi {
                return None;
            }
            let end = self.free_until(start, hi.min(start.saturating_add(max)));
            return Some(Run { start, blocks: end - start });
        }
        None
    }

    fn free_until(&self, start: u64, hi: u64) -> u64 {
        let mut at = start;
        while at < hi {
            let word = self.words[(at / 64) as usize] >> (at % 64);
            if word != 0 {
                return hi.min(at + u64::from(word.trailing_zeros()));
            }
            at = (at / 64 + 1) * 64;
        }
        hi
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(total: u64) -> Space {
        Space::new(total, Arc::new(Pins::default()))
    }

    #[test]
    fn freed_blocks_are_not_reused_before_the_commit_nor_under_a_pin() {
        let s = space(20_000);
        let run = s.allocate(100, None, Class::Data).expect("space");
        s.publish(run);
        s.committed();
        let pin = s.pins().pin(vec![Run { start: run.start + 50, blocks: 1 }]);
        s.free(run);
        assert!(s.would_gain());
        assert_ne!(s.allocate(1, Some(run.start), Class::Data).map(|r| r.start), Some(run.start));
        s.committed();
        assert_ne!(s.allocate(1, Some(run.start), Class::Data).map(|r| r.start), Some(run.start));
        drop(pin);
        s.committed();
        assert_eq!(s.allocate(1, Some(run.start), Class::Data).map(|r| r.start), Some(run.start));
    }

    #[test]
    fn the_reserve_is_kept_from_data_and_open_to_metadata() {
        let s = space(2000);
        let mut got = 0;
        while let Some(run) = s.allocate(64, None, Class::Data) {
            got += run.blocks;
        }
        assert_eq!(got, 2000 - 500);
        assert!(s.has_room());
        assert_eq!(s.allocate(512, None, Class::Metadata).map(|r| r.blocks), Some(500));
        assert!(!s.has_room());
        assert!(s.allocate(1, None, Class::Metadata).is_none());
    }

    #[test]
    fn rows_rebuild_the_same_allocator() {
        let s = space(30_000);
        for (start, blocks) in [(0, 1), (63, 2), (8190, 4), (29_999, 1)] {
            s.claim(Run { start, blocks });
        }
        let other = space(30_000);
        for (group, row) in s.rows() {
            other.load_group(group, &row);
        }
        assert_eq!(other.usage().free, 30_000 - 8);
        assert_eq!(other.rows(), s.rows());
    }

    #[test]
    fn a_long_run_is_preferred_to_the_first_gap() {
        let s = space(30_000);
        s.claim(Run { start: 2, blocks: 998 });
        s.claim(Run { start: 1010, blocks: 5 });
        let run = s.allocate(500, None, Class::Data).expect("space");
        assert_eq!((run.start, run.blocks), (1015, 500));
        let rest = s.allocate(1 << 20, None, Class::Data).expect("space");
        assert!(rest.blocks > 20_000, "the longest run when none is long enough");
    }
}
