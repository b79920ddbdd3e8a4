//! What a change may have to wait for, said beforehand: whoever must not wait lets somebody else make it.
//!
//! Between the answer and the change a commit or another writer may come in. The change waits for that one then.

use crate::image::BLOCK;
use crate::image::tables::Attr;
use crate::volume::inode::Inode;
use crate::volume::{ROWS_MAX, Volume};

/// A commit that brings rows below [`ROWS_MAX`] is made by one of the last changes before.
const ROWS_NEAR: u64 = 64;

/// Blocks of a file whose rows are removed as fast as names are: each may have one.
const BLOCKS_FEW: u64 = 256;

impl Volume {
    /// Whether a change of rows may wait for the device: for a commit that is under way, or one that it has to make itself.
    pub fn change_waits(&self) -> bool {
        self.commits_first(1) || self.store().is_committing()
    }

    /// Whether [`Volume::write`] of `len` bytes may wait: for another writer of the same blocks, for a commit, or for a deleted
    /// file to go. A commit that is under way stops only writes that take blocks.
    pub fn write_waits(&self, inode: &Inode, offset: u64, len: usize) -> bool {
        let end = offset.saturating_add(len as u64);
        let first = offset.min(inode.read().attr.size) / BLOCK;
        let blocks = end.div_ceil(BLOCK) - offset / BLOCK;
        self.commits_first(blocks)
            || inode.ranges.is_held(&(first..end.div_ceil(BLOCK).max(first + 1)))
            || self.store().is_committing() && !has_data(inode, offset, end)
    }

    /// Whether [`Volume::set_size`] may wait: for a writer, for a commit, for the device where the rest of a block is to be
    /// zeroed. So does whoever cuts a file off that may have many rows.
    pub fn resize_waits(&self, inode: &Inode, size: u64) -> bool {
        let Attr { size: old, blocks, .. } = inode.attr();
        let zeroes = size > old && !old.is_multiple_of(BLOCK);
        zeroes
            || blocks > BLOCKS_FEW
            || self.change_waits()
            || inode.ranges.is_held(&(old.min(size) / BLOCK..u64::MAX))
    }

    /// Whether so little is free, or so many rows are in memory, that a change which takes `blocks` blocks may have to commit
    /// or wait for room.
    fn commits_first(&self, blocks: u64) -> bool {
        let space = self.store().space();
        let has_many = self.inodes.changed() as u64 + ROWS_NEAR >= ROWS_MAX;
        has_many || space.is_low() || space.usage().available < blocks
    }
}

/// Whether every block of `[offset, end)` holds data of the file, as far as it is known without reading.
fn has_data(inode: &Inode, offset: u64, end: u64) -> bool {
    let st = inode.read();
    let Some(extents) = &st.extents else { return false };
    let pieces = extents.pieces(offset / BLOCK, end.div_ceil(BLOCK));
    pieces.iter().all(|piece| piece.written().is_some())
}
