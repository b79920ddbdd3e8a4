//! How the metadata area grows.
//!
//! The database doubles the length of its file long before it writes there, and then writes from
//! several places of the new half on. Only what is written is backed. But as soon as the length is
//! known, a place in the image is planned for all of it, behind the last piece if that is free: so
//! the parts join when they meet, and a few dozen pieces hold any number of files.

use crate::image::BLOCK;
use crate::image::metastore::MetaStore;
use crate::image::metastore::sums::{COVERED, area_blocks, stored_sums};
use crate::image::pins::Run;
use crate::image::superblock::{CHUNKS_MAX, Chunk, Superblock};
use std::io;
use std::sync::atomic::Ordering::{AcqRel, Release};

/// Least step, in blocks, while there is room: 1 MiB.
const STEP_MIN: u64 = 256;
/// Largest step, in blocks: 256 MiB.
const STEP_MAX: u64 = 1 << 16;

/// Blocks of the area that no chunk backs.
struct Gap {
    start: u64,
    /// The first one that is needed.
    needed: u64,
    end: u64,
}

impl MetaStore {
    /// Backs the blocks `[from, to)` of the area.
    pub(super) fn back(&self, from: u64, to: u64) -> io::Result<()> {
        if gap(&self.superblock.read(), from, to).is_none() {
            return Ok(());
        }
        let _one = self.growing.lock();
        loop {
            let sb = self.superblock();
            let Some(gap) = gap(&sb, from, to) else { return Ok(()) };
            self.fill(&sb, &gap, to)?;
        }
    }

    /// Plans places for what the database may write before it asks again: out of free space while
    /// there is plenty, else out of what is set aside.
    pub fn plan(&self) {
        let Some(space) = self.space.get() else { return };
        if !self.unplanned.swap(false, AcqRel) {
            return;
        }
        let sb = self.superblock();
        let mut plans = self.plans.lock();
        for Gap { start, end, .. } in gaps(&sb) {
            let within = plans.iter().filter(|p| p.logical < end && start < p.logical + p.blocks);
            let from = within.map(|p| p.logical + p.blocks).max().unwrap_or(start);
            let before = sb.chunks.iter().chain(&*plans).find(|c| c.logical + c.blocks == from);
            let after = before.map(|c| c.start + c.blocks);
            let want = end.saturating_sub(from);
            let places: Vec<Run> = plans.iter().map(Chunk::image).collect();
            let run = space.reserve_run(want, after).or_else(|| space.reserved_spare(&places));
            plans.extend(run.filter(|_| want > 0).map(|run| Chunk {
                logical: from,
                start: run.start,
                blocks: run.blocks.min(want),
            }));
        }
    }

    /// What was set aside is no longer: plans are made anew.
    pub fn replan(&self) {
        self.plans.lock().clear();
        self.unplanned.store(true, Release);
    }

    /// Backs what `gap` needs up to `to`, and some more.
    fn fill(&self, sb: &Superblock, gap: &Gap, to: u64) -> io::Result<()> {
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        let space = self.space.get().ok_or_else(full)?;
        let step = (sb.backed_bytes() / BLOCK / 8).clamp(STEP_MIN, STEP_MAX);
        // When space is short, what is set aside must reach for every place that one commit writes.
        let step = if space.reserved() > 4 * step { step } else { space.reserved() / 64 };
        if let Some(chunk) = self.planned(gap, to.min(gap.end), step) {
            return self.insert(chunk);
        }
        // There is no place for all: a little more than is needed, for pieces are few and so is space.
        let logical = gap.needed;
        let before = sb.chunks.iter().find(|c| c.logical + c.blocks == logical);
        let want = to.min(gap.end) - logical + step;
        let after = before.map(|c| c.start + c.blocks);
        let run = space.take_reserved(want.min(gap.end - logical), after).ok_or_else(full)?;
        self.insert(Chunk { logical, start: run.start, blocks: run.blocks })
    }

    /// A part of a plan that begins at or before what `gap` needs, if it is still set aside.
    fn planned(&self, gap: &Gap, to: u64, step: u64) -> Option<Chunk> {
        let plans = self.plans.lock();
        let covers = |p: &&Chunk| p.logical <= gap.needed && gap.needed < p.logical + p.blocks;
        let plan = plans.iter().rfind(covers)?;
        // On both sides: buddies are written from the last one to the first one.
        let (lo, hi) = (plan.logical.max(gap.start), gap.end.min(plan.logical + plan.blocks));
        let (from, to) = (gap.needed.saturating_sub(step).max(lo), (to + step).min(hi));
        let at = |logical: u64| plan.start + (logical - plan.logical);
        let space = self.space.get()?;
        let run = space.take_reserved_around(at(gap.needed), at(from)..at(to))?;
        Some(Chunk {
            logical: plan.logical + (run.start - plan.start),
            start: run.start,
            blocks: run.blocks,
        })
    }

    fn insert(&self, chunk: Chunk) -> io::Result<()> {
        let mut sb = self.superblock.write();
        let at = sb.chunks.partition_point(|c| c.logical < chunk.logical);
        let full = sb.chunks.len() == CHUNKS_MAX;
        match at.checked_sub(1).and_then(|i| sb.chunks.get_mut(i)) {
            Some(c) if c.continues_into(&chunk) => c.blocks += chunk.blocks,
            _ if full => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            _ => sb.chunks.insert(at, chunk),
        }
        sb.chunks.dedup_by(|next, chunk| {
            let joins = chunk.continues_into(next);
            chunk.blocks += if joins { next.blocks } else { 0 };
            joins
        });
        drop(sb);
        self.unsaved.store(true, Release);
        self.begin(&chunk);
        Ok(())
    }

    /// What a chunk holds now is somebody's old data: its checksums say that nothing was written.
    pub(super) fn begin(&self, chunk: &Chunk) {
        let mut sums = self.sums.lock();
        let first = chunk.logical.div_ceil(COVERED + 1);
        let groups = (first..).take_while(|g| stored_sums(*g) < chunk.logical + chunk.blocks);
        groups.for_each(|group| sums.begin(group));
    }

    /// The database has `bytes` bytes from now on, `old` until now: what lies behind them reads as
    /// zeros if it comes back. The area keeps its chunks for what comes.
    pub(super) fn shrink(&self, bytes: u64, old: u64) -> io::Result<()> {
        let (keep, had) = (bytes.div_ceil(BLOCK), old.div_ceil(BLOCK));
        for group in keep / COVERED..had.div_ceil(COVERED) {
            if self.locate(stored_sums(group)).is_none() {
                continue;
            }
            if group * COVERED >= keep {
                self.sums.lock().begin(group);
            } else {
                (keep..(group + 1) * COVERED).try_for_each(|block| self.set_sum(block, 0))?;
            }
        }
        Ok(())
    }
}

impl Chunk {
    fn image(&self) -> Run {
        Run { start: self.start, blocks: self.blocks }
    }

    fn continues_into(&self, next: &Chunk) -> bool {
        self.logical + self.blocks == next.logical && self.start + self.blocks == next.start
    }
}

/// What no chunk backs, in blocks of the area, up to where the database may write.
fn gaps(sb: &Superblock) -> Vec<Gap> {
    let end = area_blocks(sb.metadata_bytes);
    let (mut gaps, mut start) = (Vec::new(), 0);
    for chunk in sb.chunks.iter().chain([&Chunk { logical: end, start: 0, blocks: 0 }]) {
        if start < chunk.logical {
            gaps.push(Gap { start, needed: start, end: chunk.logical });
        }
        start = start.max(chunk.logical + chunk.blocks);
    }
    gaps
}

/// The first gap between chunks that `[from, to)` touches, in blocks of the area.
fn gap(sb: &Superblock, from: u64, to: u64) -> Option<Gap> {
    let mut start = 0;
    let last = Chunk { logical: area_blocks(sb.metadata_bytes).max(to), start: 0, blocks: 0 };
    for chunk in sb.chunks.iter().chain([&last]) {
        let needed = from.max(start);
        if start < chunk.logical && needed < to.min(chunk.logical) {
            return Some(Gap { start, needed, end: chunk.logical });
        }
        start = chunk.logical + chunk.blocks;
    }
    None
}
