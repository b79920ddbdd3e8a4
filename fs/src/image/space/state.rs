//! The bits of the groups, in memory and out of the database, and the search for free runs.

use crate::image::pins::Run;
use crate::image::space::bits::Bits;
use crate::image::space::counts::Counts;
use crate::image::space::{DirtyRows, GROUP_BLOCKS, Space};
use std::collections::{BTreeSet, HashMap};

/// Groups that are searched for a run that is long enough before the longest one is taken.
const GROUPS_SEARCHED: u64 = 64;
/// Groups whose bits are kept in memory before clean ones are forgotten: 8 MiB.
const GROUPS_LOADED: usize = 4096;

/// What the lock of [`Space`] guards.
pub(super) struct State {
    pub(super) counts: Counts,
    pub(super) loaded: HashMap<u64, Group>,
    /// Groups whose row differs from the running transaction.
    pub(super) dirty: BTreeSet<u64>,
    /// Groups whose row is in the running transaction, and in no commit.
    pub(super) uncommitted: BTreeSet<u64>,
    /// Freed since the last commit.
    pub(super) freed: Vec<Run>,
    /// Freed and committed, but pinned when last looked at.
    pub(super) pinned: Vec<Run>,
    pub(super) cursor: u64,
    /// The last group has a row even when it is all free: soon it will be longer.
    pub(super) grows: bool,
    /// Number of groups in memory at which clean ones are looked for.
    evict_at: usize,
}

/// The bits of a group in memory.
pub(super) enum Group {
    Known {
        disk: Box<Bits>,
        busy: Box<Bits>,
    },
    /// Its row cannot be read. Nothing is allocated there, what is freed is lost until fsck, and
    /// the row stays as it is.
    Lost,
}

/// The parts of a run in each group: group, first block, one past the last.
fn parts(run: Run) -> impl Iterator<Item = (u64, u64, u64)> {
    let mut at = run.start;
    std::iter::from_fn(move || {
        let group = at / GROUP_BLOCKS;
        let to = run.end().min((group + 1) * GROUP_BLOCKS);
        let part = (group, at - group * GROUP_BLOCKS, to - group * GROUP_BLOCKS);
        let some = at < to;
        at = to;
        some.then_some(part)
    })
}

impl State {
    /// Everything is free.
    pub(super) fn new(total: u64) -> State {
        State {
            counts: Counts::new(total),
            loaded: HashMap::new(),
            dirty: BTreeSet::new(),
            uncommitted: BTreeSet::new(),
            freed: Vec::new(),
            pinned: Vec::new(),
            // The metadata area lies at the front and grows in place for as long as it can.
            cursor: total / 16,
            grows: false,
            evict_at: GROUPS_LOADED,
        }
    }

    /// The bits of a group, loaded if need be.
    pub(super) fn group(&mut self, space: &Space, group: u64) -> &mut Group {
        if !self.loaded.contains_key(&group) {
            self.evict();
            let loaded = self.load(space, group);
            self.loaded.insert(group, loaded);
        }
        self.loaded.get_mut(&group).expect("inserted above")
    }

    fn load(&mut self, space: &Space, group: u64) -> Group {
        let (len, free) = (self.counts.len(group), self.counts.disk_of(group));
        let known =
            |bits: Bits| Group::Known { busy: Box::new(bits.clone()), disk: Box::new(bits) };
        if free == 0 || free == len {
            return known(Bits::filled(free == 0, len));
        }
        let row = space.rows.get().map_or(Ok(None), |rows| rows(group));
        let problem = match row {
            Ok(Some(row)) => {
                let bits = Bits::decode(&row, len);
                if bits.free() == free {
                    return known(bits);
                }
                format!("has {} free blocks, counted were {free}", bits.free())
            }
            Ok(None) => "has no row".to_owned(),
            Err(e) => e.to_string(),
        };
        tracing::error!(
            "bitmap of group {group} is not used: it {problem}; run inflight fsck --repair"
        );
        self.counts.lose(group);
        Group::Lost
    }

    /// Forgets groups that can be loaded again as they are.
    fn evict(&mut self) {
        if self.loaded.len() < self.evict_at {
            return;
        }
        let (dirty, uncommitted) = (&self.dirty, &self.uncommitted);
        self.loaded.retain(|group, bits| match bits {
            Group::Lost => true,
            Group::Known { disk, busy } => {
                disk != busy || dirty.contains(group) || uncommitted.contains(group)
            }
        });
        self.evict_at = (self.loaded.len() * 2).max(GROUPS_LOADED);
    }

    /// Sets or clears the bits of a run; `None` leaves a bitmap as it is.
    pub(super) fn change(
        &mut self,
        space: &Space,
        run: Run,
        disk: Option<bool>,
        busy: Option<bool>,
    ) {
        for (group, from, to) in parts(run) {
            let Group::Known { disk: on_disk, busy: in_use } = self.group(space, group) else {
                continue;
            };
            let changed_disk = disk.map_or(0, |taken| on_disk.set(from, to, taken));
            let changed_busy = busy.map_or(0, |taken| in_use.set(from, to, taken));
            if let Some(taken) = disk.filter(|_| changed_disk > 0) {
                self.counts.add_disk(group, changed_disk, taken);
                self.dirty.insert(group);
            }
            if let Some(taken) = busy {
                self.counts.add_busy(group, changed_busy, taken);
            }
        }
    }

    pub(super) fn take_dirty(&mut self) -> DirtyRows {
        let mut rows = DirtyRows::default();
        for group in std::mem::take(&mut self.dirty) {
            let Some(Group::Known { disk, .. }) = self.loaded.get(&group) else { continue };
            let free = self.counts.disk_of(group);
            let grows = self.grows && self.counts.is_last(group);
            let partial = free > 0 && (free < self.counts.len(group) || grows);
            rows.groups.push((group, partial.then(|| disk.encode())));
            self.uncommitted.insert(group);
        }
        rows.counts = self.counts.take_dirty();
        rows
    }

    pub(super) fn is_free(&mut self, space: &Space, block: u64) -> bool {
        match self.group(space, block / GROUP_BLOCKS) {
            Group::Known { busy, .. } => !busy.get(block % GROUP_BLOCKS),
            Group::Lost => false,
        }
    }

    /// The first free run at or after `from`, wrapping around, of `want` blocks; if there is none
    /// that long, the longest that was seen.
    pub(super) fn find(&mut self, space: &Space, from: u64, want: u64) -> Option<Run> {
        let mut best: Option<Run> = None;
        for (lo, hi) in [(from, space.total()), (0, from.min(space.total()))] {
            let mut at = lo;
            while let Some(run) = self.next_free(space, at, hi, want) {
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
    pub(super) fn next_free(&mut self, space: &Space, at: u64, hi: u64, max: u64) -> Option<Run> {
        let start = self.free_from(space, at, hi)?;
        let end = self.free_until(space, start, hi.min(start.saturating_add(max)));
        Some(Run { start, blocks: end - start })
    }

    fn free_from(&mut self, space: &Space, mut at: u64, hi: u64) -> Option<u64> {
        while at < hi {
            let group = self.counts.next_free(at / GROUP_BLOCKS)?;
            at = at.max(group * GROUP_BLOCKS);
            let found = match self.group(space, group) {
                Group::Known { busy, .. } => busy.next_free(at % GROUP_BLOCKS),
                Group::Lost => None,
            };
            match found {
                Some(bit) => return Some(group * GROUP_BLOCKS + bit).filter(|b| *b < hi),
                None => at = (group + 1) * GROUP_BLOCKS,
            }
        }
        None
    }

    fn free_until(&mut self, space: &Space, start: u64, hi: u64) -> u64 {
        let mut at = start;
        while at < hi {
            let group = at / GROUP_BLOCKS;
            if !self.counts.is_empty(group) {
                match self.group(space, group) {
                    Group::Known { busy, .. } => {
                        if let Some(bit) = busy.next_taken(at % GROUP_BLOCKS) {
                            return hi.min(group * GROUP_BLOCKS + bit);
                        }
                    }
                    Group::Lost => return at,
                }
            }
            at = (group + 1) * GROUP_BLOCKS;
        }
        hi
    }
}
