//! How the metadata area grows.
//!
//! It grows by a fraction of itself, behind its last piece if the blocks there are set aside for
//! it, so that a few dozen pieces hold any number of files. The database doubles the length of its
//! file long before it writes there; only what is written is backed.

use crate::image::BLOCK;
use crate::image::metastore::MetaStore;
use crate::image::metastore::sums::{COVERED, area_blocks, stored_sums};
use crate::image::superblock::{CHUNKS_MAX, Chunk, Superblock};
use std::io;
use std::sync::atomic::Ordering::Release;

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

    /// Backs what `gap` needs up to `to`, and some more.
    fn fill(&self, sb: &Superblock, gap: &Gap, to: u64) -> io::Result<()> {
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        let space = self.space.get().ok_or_else(full)?;
        let step = (sb.backed_bytes() / BLOCK / 8).clamp(STEP_MIN, STEP_MAX);
        // What is written far from the rest gets a piece of its own.
        let near = gap.needed - gap.start <= step.max(COVERED);
        let logical = if near { gap.start } else { gap.needed };
        let before = sb.chunks.iter().find(|c| c.logical + c.blocks == logical);
        let missing = to.min(gap.end) - logical;
        let want = missing + step.min(space.reserved() / 2);
        let after = before.map(|c| c.start + c.blocks);
        let run = space.take_reserved(want.min(gap.end - logical), after).ok_or_else(full)?;
        self.insert(Chunk { logical, start: run.start, blocks: run.blocks })
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
    fn continues_into(&self, next: &Chunk) -> bool {
        self.logical + self.blocks == next.logical && self.start + self.blocks == next.start
    }
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
