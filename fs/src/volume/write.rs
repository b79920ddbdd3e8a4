//! Writing: find or allocate the blocks, let the caller fill them, then make them part of the file.

use crate::errno::Result;
use crate::image::BLOCK;
use crate::image::pins::Run;
use crate::image::store::Recovery;
use crate::image::tables::{Extent, Tables};
use crate::mutant::{self, Mutant};
use crate::volume::Volume;
use crate::volume::extents::{Change, Piece};
use crate::volume::inode::{Inode, State};
use crate::volume::range_lock::RangeGuard;
use nix::errno::Errno;
use std::ops::Range;
use std::sync::Arc;

/// Largest size of a file: loff_t ends there.
pub const SIZE_MAX: u64 = i64::MAX as u64;

/// Commits and departures of files that an allocation waits for before it believes that there is no room.
const PATIENCE: u32 = 8;

/// Where a part of the payload goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteData {
    /// Byte offset in the image.
    pub offset: u64,
    /// Which bytes of the payload.
    pub payload: Range<usize>,
}

/// A write that holds its range of the file. Fill every target, then call [`Write::finish`];
/// dropping it instead gives new blocks back and leaves the file as it was.
#[derive(Debug)]
pub struct Write<'a> {
    volume: &'a Volume,
    inode: &'a Arc<Inode>,
    _range: RangeGuard<'a>,
    end: u64,
    /// Parts of the payload and where they go, in order.
    pub data: Vec<WriteData>,
    /// Ranges of the image that must read as zeros: the rest of new blocks, and what lies between
    /// the old end of the file and this write.
    pub zeros: Vec<Range<u64>>,
    new: Vec<(u64, Extent)>,
    allocated: Vec<Run>,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").finish_non_exhaustive()
    }
}

impl Volume {
    /// Begins to write `len` bytes at `offset`.
    ///
    /// # Errors
    /// EFBIG beyond 2^63 - 1, ENOSPC, EROFS, ESTALE for a deleted file.
    pub fn write<'a>(
        &'a self,
        inode: &'a Arc<Inode>,
        offset: u64,
        len: usize,
    ) -> Result<Write<'a>> {
        let end = self.writable_to(inode, offset, len)?;
        let range = self.lock_for_write(inode, offset, end);
        let (pieces, goal, size) = {
            let st = inode.read();
            let extents = st.extents.as_ref().filter(|_| !st.deleted).ok_or(Errno::ESTALE)?;
            let first = offset / BLOCK;
            (extents.pieces(first, end.div_ceil(BLOCK)), extents.goal(first), st.attr.size)
        };
        // Writing into preallocated blocks splits extents, which takes rows.
        let splits = pieces.iter().any(|p| p.extent.is_some_and(|e| e.unwritten));
        if splits && !self.store().has_room() {
            return Err(Errno::ENOSPC.into());
        }
        let mut write = Write::new(self, inode, range, end);
        write.zeros.extend(eof_gap(inode, size, offset));
        write.place(&pieces, goal, offset)?;
        Ok(write)
    }

    /// Begins to write `len` bytes at `offset` into one run of blocks that hold data of the file, which takes nothing and waits
    /// for nobody. `None` where it is not that, or somebody writes there now: [`Volume::write`] is for everything.
    ///
    /// # Errors
    /// Those of [`Volume::write`] but for want of space.
    pub fn overwrite<'a>(
        &'a self,
        inode: &'a Arc<Inode>,
        offset: u64,
        len: usize,
    ) -> Result<Option<Write<'a>>> {
        let end = self.writable_to(inode, offset, len)?;
        let blocks = offset / BLOCK..end.div_ceil(BLOCK);
        let Some(range) = inode.ranges.try_lock(blocks.clone()) else { return Ok(None) };
        let pieces = {
            let st = inode.read();
            let extents = st.extents.as_ref().filter(|_| !st.deleted).ok_or(Errno::ESTALE)?;
            if len == 0 || end > st.attr.size {
                return Ok(None);
            }
            extents.pieces(blocks.start, blocks.end)
        };
        if pieces.iter().any(|piece| piece.written().is_none()) {
            return Ok(None);
        }
        let mut write = Write::new(self, inode, range, end);
        write.place(&pieces, None, offset)?;
        Ok((write.data.len() == 1).then_some(write))
    }

    /// Where a write ends that may be made.
    fn writable_to(&self, inode: &Inode, offset: u64, len: usize) -> Result<u64> {
        self.store().check_writable()?;
        self.load_extents(inode)?;
        let end = offset.checked_add(len as u64).filter(|e| *e <= SIZE_MAX);
        Ok(end.ok_or(Errno::EFBIG)?)
    }

    /// Locks the blocks of `[offset, end)` and, when the write begins beyond the end of the file,
    /// everything from there on.
    fn lock_for_write<'a>(&self, inode: &'a Inode, offset: u64, end: u64) -> RangeGuard<'a> {
        loop {
            let from = offset.min(inode.read().attr.size) / BLOCK;
            let guard = inode.ranges.lock(from..end.div_ceil(BLOCK).max(from + 1));
            // The file may have been cut while we waited.
            if offset.min(inode.read().attr.size) / BLOCK >= from {
                return guard;
            }
        }
    }

    /// Allocates `want` blocks in as few runs as possible, all of them or none.
    pub(super) fn allocate(&self, want: u64, goal: Option<u64>) -> Result<Vec<Run>> {
        for _ in 0..=PATIENCE {
            let departed = self.departures.count();
            if let Some(runs) = self.allocate_free(want, goal) {
                return Ok(runs);
            }
            // What was deleted a moment ago becomes free with a commit. Somebody else may take it first, and the kernel may not
            // have said yet that nobody has the file open.
            if self.store().space().would_gain() {
                self.commit(Recovery::Walk)?;
            } else if !self.await_departure(departed)? {
                break;
            }
        }
        Err(Errno::ENOSPC.into())
    }

    /// Refuses what cannot be had, before it is tried: trying takes all that is free from others for a moment.
    pub(super) fn await_room(&self, want: u64) -> Result<()> {
        for _ in 0..=PATIENCE {
            let (departed, usage) = (self.departures.count(), self.store().space().usage());
            if want <= usage.available + usage.waiting {
                return Ok(());
            }
            if !self.await_departure(departed)? {
                break;
            }
        }
        Err(Errno::ENOSPC.into())
    }

    /// Allocates `want` blocks out of those that are free now.
    fn allocate_free(&self, want: u64, goal: Option<u64>) -> Option<Vec<Run>> {
        loop {
            let (mut runs, mut missing, mut goal) = (Vec::new(), want, goal);
            while missing > 0 {
                let Some(run) = self.store().space().allocate(missing, goal) else { break };
                (missing, goal) = (missing - run.blocks, Some(run.end()));
                runs.push(run);
            }
            if missing == 0 {
                return Some(runs);
            }
            runs.into_iter().for_each(|run| self.store().space().unallocate(run));
            if !self.store().relinquish() {
                return None;
            }
        }
    }
}

/// The bytes between the end of the file and `offset` that lie in a block with data: they may hold
/// what an earlier, longer file had there.
pub(super) fn eof_gap(inode: &Inode, size: u64, offset: u64) -> Option<Range<u64>> {
    let none = offset <= size || size.is_multiple_of(BLOCK);
    if none || mutant::is(Mutant::SkipTailZero) {
        return None;
    }
    let st = inode.read();
    let last = st.extents.as_ref()?.pieces(size / BLOCK, size / BLOCK + 1).first()?.written()?;
    let (base, first) = (last.start * BLOCK, size % BLOCK);
    let len = (offset - size / BLOCK * BLOCK).min(BLOCK);
    Some(base + first..base + len)
}

impl<'a> Write<'a> {
    /// One that goes nowhere yet.
    fn new(
        volume: &'a Volume,
        inode: &'a Arc<Inode>,
        range: RangeGuard<'a>,
        end: u64,
    ) -> Write<'a> {
        let (data, zeros) = (Vec::new(), Vec::new());
        let (new, allocated) = (Vec::new(), Vec::new());
        Write { volume, inode, _range: range, end, data, zeros, new, allocated }
    }

    fn place(&mut self, pieces: &[Piece], mut goal: Option<u64>, offset: u64) -> Result<()> {
        for piece in pieces {
            let extents = match piece.extent {
                Some(e) => vec![e],
                None => {
                    let runs = self.volume.allocate(piece.blocks, goal)?;
                    self.allocated.extend(&runs);
                    let fresh =
                        |r: &Run| Extent { start: r.start, blocks: r.blocks, unwritten: true };
                    runs.iter().map(fresh).collect()
                }
            };
            let mut logical = piece.logical;
            for extent in extents {
                self.target(logical, extent, offset);
                logical += extent.blocks;
                goal = Some(extent.end());
            }
        }
        Ok(())
    }

    /// Aims the part of the payload that falls on `extent`, which begins at block `logical`.
    fn target(&mut self, logical: u64, extent: Extent, offset: u64) {
        let (base, image) = (logical * BLOCK, extent.start * BLOCK);
        let limit = base + extent.blocks * BLOCK;
        let (from, to) = (offset.max(base), self.end.min(limit));
        if extent.unwritten {
            self.new.push((logical, Extent { unwritten: false, ..extent }));
            if from > base && !mutant::is(Mutant::SkipEdgeZero) {
                self.zeros.push(image..image + (from - base));
            }
            if to < limit && !mutant::is(Mutant::SkipEdgeZero) {
                self.zeros.push(image + (to - base)..image + (limit - base));
            }
        }
        let payload = (from - offset) as usize..(to - offset) as usize;
        let at = image + (from - base);
        match self.data.last_mut() {
            Some(last) if last.offset + last.payload.len() as u64 == at => {
                last.payload.end = payload.end;
            }
            _ => self.data.push(WriteData { offset: at, payload }),
        }
    }

    /// True when new blocks will join the file.
    pub fn allocates(&self) -> bool {
        !self.new.is_empty()
    }

    /// Every target holds its data: the blocks join the file, size and times follow.
    pub fn finish(mut self) -> Result<()> {
        let (volume, inode, end) = (self.volume, self.inode, self.end);
        let bytes = self.data.iter().map(|part| part.payload.len() as u64).sum();
        let resize = |st: &mut State| {
            st.attr.size = st.attr.size.max(end);
            st.attr.touch(true);
        };
        if self.new.is_empty() {
            let grows = end > inode.read().attr.size;
            // First: a commit in between must flush the data before it takes the size.
            if grows {
                volume.store().note_new_data(bytes);
            }
            volume.update(inode, grows, resize);
            return volume.relieve();
        }
        volume.store().note_new_data(bytes);
        let (new, allocated) = (std::mem::take(&mut self.new), std::mem::take(&mut self.allocated));
        volume.change(|tables| {
            volume.map(tables, inode, &new, &allocated)?;
            volume.update(inode, true, resize);
            Ok(())
        })
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        for run in self.allocated.drain(..) {
            self.volume.store().space().unallocate(run);
        }
    }
}

impl Volume {
    /// Adds extents to a file; `allocated` are those of their blocks that were free before.
    pub(super) fn map(
        &self,
        tables: &mut Tables<'_>,
        inode: &Arc<Inode>,
        new: &[(u64, Extent)],
        allocated: &[Run],
    ) -> Result<()> {
        let change = self.update(inode, true, |st| {
            let extents = st.extents.get_or_insert_default();
            let mut change = Change::default();
            for (logical, extent) in new {
                change.append(extents.insert(*logical, *extent));
            }
            st.attr.blocks += allocated.iter().map(|r| r.blocks).sum::<u64>();
            change
        });
        debug_assert!(change.freed.is_empty(), "the range is held, so nothing can be replaced");
        self.inodes.note_extents(new.len());
        allocated.iter().for_each(|run| self.store().space().publish(*run));
        self.apply(tables, inode, change)
    }

    /// Writes a change of the map to the database and frees what left the file.
    pub(super) fn apply(
        &self,
        tables: &mut Tables<'_>,
        inode: &Arc<Inode>,
        change: Change,
    ) -> Result<()> {
        for (logical, extent) in change.rows {
            match extent {
                Some(extent) => drop(tables.extents.insert((inode.ino, logical), extent.pack())?),
                None => drop(tables.extents.remove((inode.ino, logical))?),
            }
        }
        let freed: u64 = change.freed.iter().map(|r| r.blocks).sum();
        if freed > 0 {
            self.update(inode, true, |st| st.attr.blocks = st.attr.blocks.saturating_sub(freed));
        }
        change.freed.into_iter().for_each(|run| self.store().space().free(run));
        Ok(())
    }
}
