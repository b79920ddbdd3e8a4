//! Truncation and fallocate(2).

use crate::errno::Result;
use crate::image::BLOCK;
use crate::image::tables::Extent;
use crate::mutant::{self, Mutant};
use crate::volume::Volume;
use crate::volume::extents::{BLOCK_MAX, Change, ExtentMap};
use crate::volume::inode::Inode;
use crate::volume::write::{SIZE_MAX, eof_gap};
use nix::errno::Errno;
use std::ops::Range;
use std::sync::Arc;

/// What fallocate(2) is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    /// Allocate blocks that read as zeros.
    Allocate {
        /// Leave the size alone.
        keep_size: bool,
    },
    /// Give blocks back; the range reads as zeros.
    Punch,
    /// The range reads as zeros and stays allocated.
    Zero {
        /// Leave the size alone.
        keep_size: bool,
    },
}

impl Volume {
    /// Sets the size of a file. Waits for writers in the cut range, never for readers: what they
    /// are reading stays theirs until they are done.
    pub fn set_size(&self, inode: &Arc<Inode>, size: u64) -> Result<()> {
        self.store().check_writable()?;
        if size > SIZE_MAX {
            return Err(Errno::EFBIG.into());
        }
        self.load_extents(inode)?;
        let (_range, old) = loop {
            let old = inode.read().attr.size;
            let guard = inode.ranges.lock(old.min(size) / BLOCK..u64::MAX);
            if inode.read().attr.size == old {
                break (guard, old);
            }
        };
        self.zero_image(eof_gap(inode, old, size))?;
        while mutant::is(Mutant::TruncateWaits) && self.store().space().pins().held() > 0 {
            std::thread::yield_now();
        }
        self.change(|tables| {
            let change = self.update(inode, true, |st| {
                st.attr.size = size;
                st.attr.touch(true);
                let cuts = size < old && !mutant::is(Mutant::ResurrectTruncated);
                let keep = if cuts { size.div_ceil(BLOCK) } else { BLOCK_MAX };
                if mutant::is(Mutant::ServeForeignBlock) {
                    return st.extents.clone().unwrap_or_default().remove(keep, BLOCK_MAX);
                }
                st.extents.as_mut().map(|e| e.remove(keep, BLOCK_MAX)).unwrap_or_default()
            });
            self.apply(tables, inode, change)
        })
    }

    /// fallocate(2) on `[offset, offset + len)`.
    pub fn fallocate(
        &self,
        inode: &Arc<Inode>,
        what: Fallocate,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        self.store().check_writable()?;
        let end = offset.checked_add(len).filter(|e| *e <= SIZE_MAX).ok_or(Errno::EFBIG)?;
        if len == 0 {
            return Err(Errno::EINVAL.into());
        }
        self.load_extents(inode)?;
        let (_range, size) = loop {
            let size = inode.read().attr.size;
            let guard = inode.ranges.lock(offset.min(size) / BLOCK..u64::MAX);
            if inode.read().attr.size == size {
                break (guard, size);
            }
        };
        if inode.read().deleted {
            return Err(Errno::ESTALE.into());
        }
        let new_size = match what {
            Fallocate::Allocate { keep_size: false } | Fallocate::Zero { keep_size: false } => {
                size.max(end)
            }
            _ => size,
        };
        if new_size > size {
            self.zero_image(eof_gap(inode, size, new_size))?;
        }
        match what {
            Fallocate::Allocate { .. } => self.reserve(inode, offset, end, new_size, false),
            Fallocate::Punch => self.punch(inode, offset, end),
            Fallocate::Zero { .. } => self.reserve(inode, offset, end, new_size, true),
        }
    }

    /// Allocates what is missing in a range, and with `zero` makes all of it read as zeros: whole blocks
    /// become unwritten where they are, the rest is zeroed in place. Refuses before it changes anything.
    fn reserve(
        &self,
        inode: &Arc<Inode>,
        offset: u64,
        end: u64,
        new_size: u64,
        zero: bool,
    ) -> Result<()> {
        let (first, last) = (offset / BLOCK, end.div_ceil(BLOCK));
        let (pieces, mut goal, unwrite) = {
            let st = inode.read();
            let extents = st.extents.as_ref().ok_or(Errno::ESTALE)?;
            let unwrite = if zero { written(extents, offset, end) } else { Vec::new() };
            (extents.pieces(first, last), extents.goal(first), unwrite)
        };
        // Extents that are cut take rows.
        if !unwrite.is_empty() && !self.store().has_room() {
            return Err(Errno::ENOSPC.into());
        }
        let want: u64 = pieces.iter().filter(|p| p.extent.is_none()).map(|p| p.blocks).sum();
        self.await_room(want)?;
        let (mut new, mut allocated) = (unwrite, Vec::new());
        for hole in pieces.iter().filter(|p| p.extent.is_none()) {
            let runs = self.allocate(hole.blocks, goal).inspect_err(|_| {
                allocated.iter().for_each(|run| self.store().space().unallocate(*run));
            })?;
            let mut logical = hole.logical;
            for run in &runs {
                new.push((
                    logical,
                    Extent { start: run.start, blocks: run.blocks, unwritten: true },
                ));
                logical += run.blocks;
                goal = Some(run.end());
            }
            allocated.extend(runs);
        }
        if zero {
            self.zero_edges(inode, offset, end).inspect_err(|_| {
                allocated.iter().for_each(|run| self.store().space().unallocate(*run));
            })?;
        }
        self.change(|tables| {
            self.map(tables, inode, &new, &allocated)?;
            self.update(inode, true, |st| {
                st.attr.size = new_size;
                st.attr.touch(true);
            });
            Ok(())
        })
    }

    /// Unmaps the whole blocks of a range and zeroes the rest of it in place.
    fn punch(&self, inode: &Arc<Inode>, offset: u64, end: u64) -> Result<()> {
        self.zero_edges(inode, offset, end)?;
        let (first, last) = (offset.div_ceil(BLOCK), end / BLOCK);
        if first < last {
            self.change(|tables| {
                let change: Change = self.update(inode, true, |st| {
                    st.extents.as_mut().map(|e| e.remove(first, last)).unwrap_or_default()
                });
                self.apply(tables, inode, change)
            })?;
        }
        self.update(inode, true, |st| st.attr.touch(true));
        Ok(())
    }

    /// Zeroes in place what lies in the blocks that a range covers in part.
    fn zero_edges(&self, inode: &Arc<Inode>, offset: u64, end: u64) -> Result<()> {
        let (first, last) = (offset.div_ceil(BLOCK), end / BLOCK);
        let edges = if first > last {
            [offset..end, end..end]
        } else {
            [offset..first * BLOCK, last * BLOCK..end]
        };
        for edge in edges.into_iter().filter(|e| !e.is_empty()) {
            let target = {
                let st = inode.read();
                let extents = st.extents.as_ref().ok_or(Errno::ESTALE)?;
                let block = edge.start / BLOCK;
                let piece = extents.pieces(block, block + 1).first().and_then(|p| p.written());
                piece.map(|e| {
                    let base = e.start * BLOCK;
                    base + edge.start % BLOCK..base + edge.start % BLOCK + (edge.end - edge.start)
                })
            };
            self.zero_image(target)?;
        }
        Ok(())
    }

    fn zero_image(&self, range: Option<Range<u64>>) -> Result<()> {
        let Some(range) = range else { return Ok(()) };
        let zeros = vec![0; (range.end - range.start) as usize];
        self.store().disk().write(range.start, &zeros)?;
        self.store().note_new_data(zeros.len() as u64);
        Ok(())
    }

    /// The first hole that ends after `offset`, from `offset` on, in bytes. Beyond the last data it has no end: whoever
    /// caches writes may know of a longer file.
    pub fn hole_after(&self, inode: &Inode, offset: u64) -> Result<Range<u64>> {
        self.load_extents(inode)?;
        let st = inode.read();
        let extents = st.extents.as_ref().ok_or(Errno::ESTALE)?;
        let from = extents.seek(offset / BLOCK, false).unwrap_or(offset / BLOCK);
        let to = extents.seek(from, true).map_or(u64::MAX, |block| block * BLOCK);
        Ok((from * BLOCK).max(offset)..to)
    }

    /// The next data (`data`) or hole at or after `offset`; see SEEK_DATA of lseek(2).
    ///
    /// # Errors
    /// ENXIO beyond the end of the file, or when there is no more data.
    pub fn seek(&self, inode: &Inode, offset: u64, data: bool) -> Result<u64> {
        self.load_extents(inode)?;
        let st = inode.read();
        let size = st.attr.size;
        if offset >= size {
            return Err(Errno::ENXIO.into());
        }
        let extents = st.extents.as_ref().ok_or(Errno::ESTALE)?;
        let found = extents.seek(offset / BLOCK, data).map(|block| (block * BLOCK).max(offset));
        match found.filter(|at| *at < size) {
            Some(at) => Ok(at),
            None if data => Err(Errno::ENXIO.into()),
            None => Ok(size),
        }
    }
}

/// The extents with data in the whole blocks of `[offset, end)`, as they are when they have none.
fn written(extents: &ExtentMap, offset: u64, end: u64) -> Vec<(u64, Extent)> {
    let (first, last) = (offset.div_ceil(BLOCK), end / BLOCK);
    let pieces = if first < last { extents.pieces(first, last) } else { Vec::new() };
    let unwritten = |e: Extent| Extent { unwritten: true, ..e };
    pieces.iter().filter_map(|p| Some((p.logical, unwritten(p.written()?)))).collect()
}
