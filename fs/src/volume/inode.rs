//! An inode in memory.

use crate::errno::{Error, Result};
use crate::image::pins::Run;
use crate::image::store::fixed_runs;
use crate::image::superblock::Superblock;
use crate::image::tables::{Attr, InodeRow, Tables, Time};
use crate::image::view::View;
use crate::volume::SIZE_MAX;
use crate::volume::extents::{BLOCK_MAX, ExtentMap};
use crate::volume::range_lock::RangeLock;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use zerocopy::IntoBytes as _;

/// One file, directory or other object while it is in memory.
#[derive(Debug)]
pub struct Inode {
    /// Its number.
    pub ino: u64,
    /// Ranges under modification.
    pub ranges: RangeLock,
    /// For eviction: set by every use, cleared by the clock hand.
    pub(crate) used: AtomicU32,
    state: RwLock<State>,
}

/// What changes about an inode.
#[derive(Debug)]
pub struct State {
    /// Its attributes.
    pub attr: Attr,
    /// Its extents, once somebody needed them.
    pub extents: Option<ExtentMap>,
    /// Whether it has file capabilities, once somebody asked.
    pub is_capable: Option<bool>,
    /// Differs from its row; the commit writes it.
    pub dirty: bool,
    /// It differs in something that fdatasync(2) must make durable.
    pub dirty_contents: bool,
    /// For an append-only file: the size that it had when it became one, or was loaded.
    pub append_from: Option<u64>,
    /// Its row is gone; it lives on only in the hands of those who still have it.
    pub deleted: bool,
    /// Transaction of the last change that fdatasync(2) must make durable.
    pub data_sequence: u64,
    /// Transaction of the last change of any kind.
    pub sequence: u64,
}

impl Inode {
    /// A new or just loaded inode.
    pub fn new(ino: u64, attr: Attr, extents: Option<ExtentMap>) -> Arc<Inode> {
        let state = State {
            attr,
            extents,
            is_capable: None,
            dirty: false,
            dirty_contents: false,
            append_from: None,
            deleted: false,
            data_sequence: 0,
            sequence: 0,
        };
        Arc::new(Inode {
            ino,
            ranges: RangeLock::default(),
            used: AtomicU32::new(1),
            state: RwLock::new(state),
        })
    }

    /// The state, shared.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// The state, exclusively. Callers go through `Volume::update`, which also notes the change.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    /// As [`Inode::write`], without waiting.
    pub(crate) fn try_write(&self) -> Option<RwLockWriteGuard<'_, State>> {
        self.state.try_write()
    }

    /// A copy of the attributes.
    pub fn attr(&self) -> Attr {
        self.state.read().attr.clone()
    }

    /// Writes the row, if it differs from memory, into transaction `sequence`.
    pub(crate) fn flush(&self, tables: &mut Tables<'_>, sequence: u64) -> Result<()> {
        let mut st = self.state.write();
        // The change may be older than the transaction that carries it.
        if st.dirty {
            st.sequence = sequence;
        }
        if std::mem::take(&mut st.dirty_contents) {
            st.data_sequence = sequence;
        }
        if std::mem::take(&mut st.dirty) && !st.deleted {
            tables.inodes.insert(self.ino, InodeRow::new(&st.attr).as_bytes())?;
        }
        Ok(())
    }
}

impl Attr {
    /// The object changed: ctime, and for contents mtime too.
    pub fn touch(&mut self, contents: bool) {
        self.ctime = Time::now();
        if contents {
            self.mtime = self.ctime;
        }
    }
}

/// Reads the row of an inode.
pub fn load_attr(view: &View<'_>, ino: u64) -> Result<Option<Attr>> {
    let Some(row) = view.inode(ino)? else { return Ok(None) };
    let attr = InodeRow::decode(&row).filter(is_possible);
    Ok(Some(attr.ok_or_else(|| Error::Corrupt(format!("row of inode {ino} is malformed")))?))
}

/// Numbers that arithmetic elsewhere relies on.
fn is_possible(attr: &Attr) -> bool {
    let times = [attr.atime, attr.mtime, attr.ctime, attr.btime];
    // A directory's size is the number of its entries.
    let size_max = if attr.is_dir() { BLOCK_MAX } else { SIZE_MAX };
    attr.size <= size_max
        && attr.blocks <= BLOCK_MAX
        && times.iter().all(|t| t.nanos < 1_000_000_000)
}

/// Reads the extents of an inode.
pub fn load_extents(view: &View<'_>, ino: u64, sb: &Superblock) -> Result<ExtentMap> {
    let mut map = ExtentMap::default();
    view.extents(ino, |logical, extent| {
        let inside = extent.start.checked_add(extent.blocks).is_some_and(|e| e <= sb.total_blocks);
        // A file over the metadata could rewrite it.
        let free = |run: Run| run.end() <= extent.start || extent.end() <= run.start;
        if !inside || !fixed_runs(&sb.chunks).all(free) || !map.load(logical, extent) {
            let what = format!("inode {ino} has a bad extent at block {logical}");
            return Err(Error::Corrupt(what));
        }
        Ok(())
    })?;
    Ok(map)
}
