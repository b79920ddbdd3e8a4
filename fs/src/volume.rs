//! Inodes, extents and names over an [`image`](crate::image).
//!
//! A [`Volume`] knows nothing of FUSE: no opcodes, no file handles, no replies. The order in which
//! its locks are taken is written in [`crate::image::store`].

pub mod extents;
mod grow;
pub mod inode;
pub mod inode_cache;
mod links;
mod names;
mod orphans;
pub mod range_lock;
mod read;
mod resize;
mod sync;
mod waits;
mod write;
mod xattrs;

pub use links::NewInode;
pub use names::{DirEntry, NAME_MAX};
pub use read::ReadPlan;
pub use resize::Fallocate;
pub use write::{SIZE_MAX, Write, WriteData};
pub use xattrs::{CAPABILITY, SetMode};

use crate::errno::Result;
use crate::image::mkfs::ROOT;
use crate::image::store::{Recovery, Store};
use crate::image::tables::{Attr, INODES_FROZEN, Tables};
use crate::image::view::View;
use inode::{Inode, State};
use inode_cache::InodeCache;
use names::NameCache;
use nix::errno::Errno;
use orphans::Departures;
use parking_lot::Mutex;
use std::sync::Arc;

/// FS_APPEND_FL of ioctl_iflags(2).
const APPEND: u32 = 0x20;

/// Rows of inodes that may wait in memory for a commit. None of them can be forgotten meanwhile.
const ROWS_MAX: u64 = 1 << 15;

/// An open filesystem.
pub struct Volume {
    store: Store,
    inodes: InodeCache,
    names: NameCache,
    /// Files that a crash left without a name, not yet reclaimed.
    orphans: Mutex<Vec<u64>>,
    departures: Departures,
    hash_key: [u8; 16],
}

impl Volume {
    /// Opens the filesystem in `store` and reclaims what a crash left behind: files that had no
    /// name but were still open.
    pub fn open(store: Store) -> Result<Volume> {
        let hash_key = store.meta().superblock().hash_key;
        let volume = Volume {
            store,
            inodes: InodeCache::default(),
            names: NameCache::default(),
            orphans: Mutex::default(),
            departures: Departures::default(),
            hash_key,
        };
        volume.inode(ROOT)?;
        volume.find_orphans()?;
        Ok(volume)
    }

    /// The image below.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Number of inodes in memory.
    pub fn inodes_cached(&self) -> usize {
        self.inodes.len()
    }

    /// The inode with this number.
    ///
    /// # Errors
    /// ESTALE when there is none: the kernel holds a number of a deleted file.
    pub fn inode(&self, ino: u64) -> Result<Arc<Inode>> {
        match self.inodes.get(ino) {
            Some(inode) => Ok(inode),
            None => self.store.read(|view| self.inode_in(view, ino)),
        }
    }

    /// As [`Volume::inode`], for callers that have the rows already.
    fn inode_in(&self, view: &View<'_>, ino: u64) -> Result<Arc<Inode>> {
        if let Some(inode) = self.inodes.get(ino) {
            return Ok(inode);
        }
        let attr = inode::load_attr(view, ino)?.ok_or(Errno::ESTALE)?;
        Ok(self.inodes.insert(Inode::new(ino, attr, None)))
    }

    /// Loads the extents of `inode` if nobody did yet.
    fn load_extents(&self, inode: &Inode) -> Result<()> {
        if inode.read().extents.is_some() {
            return Ok(());
        }
        self.store.read(|view| self.load_extents_in(view, inode))
    }

    fn load_extents_in(&self, view: &View<'_>, inode: &Inode) -> Result<()> {
        let mut st = inode.write();
        if st.extents.is_none() {
            let sb = self.store.meta().superblock();
            let extents = inode::load_extents(view, inode.ino, &sb)?;
            let loaded = extents.len();
            st.extents = Some(extents);
            drop(st);
            self.inodes.note_extents(loaded);
        }
        Ok(())
    }

    /// Changes the state of an inode in memory and notes that its row must follow. `contents` is
    /// false for what fdatasync(2) may ignore.
    fn update<T>(&self, inode: &Arc<Inode>, contents: bool, f: impl FnOnce(&mut State) -> T) -> T {
        let mut st = inode.write();
        let result = f(&mut st);
        st.sequence = self.store.sequence();
        if contents {
            st.data_sequence = st.sequence;
            st.dirty_contents = true;
        }
        if !std::mem::replace(&mut st.dirty, true) {
            self.inodes.note_changed(inode);
        }
        result
    }

    /// Changes rows; see [`Store::change`].
    fn change<T>(&self, f: impl FnOnce(&mut Tables<'_>) -> Result<T>) -> Result<T> {
        let result = self.store.change(f)?;
        self.relieve()?;
        Ok(result)
    }

    /// A transaction copies every page that it changes. On an image that is nearly full it is
    /// kept so small that the reserve holds the copies: deletes must never fail for want of space.
    fn relieve(&self) -> Result<()> {
        let rows = self.inodes.changed() as u64;
        let enough = self.store.prepare_growth(rows) && rows < ROWS_MAX;
        if !enough && self.store.changes() + rows > 0 {
            self.commit(Recovery::Walk)?;
        }
        Ok(())
    }

    /// Changes attributes that need no other row: owner, mode, times, flags.
    pub fn set_attr(&self, inode: &Arc<Inode>, f: impl FnOnce(&mut Attr)) -> Result<Attr> {
        self.store.check_writable()?;
        Ok(self.update(inode, true, |st| {
            f(&mut st.attr);
            st.attr.clone()
        }))
    }

    /// Changes FS_*_FL flags, and counts the inodes that `frozen` bits protect.
    pub fn set_flags(&self, inode: &Arc<Inode>, flags: u32, frozen: u32) -> Result<()> {
        self.change(|tables| {
            let old = self.update(inode, true, |st| {
                st.attr.touch(false);
                let appends = flags & APPEND != 0;
                st.append_from = appends.then(|| st.append_from.unwrap_or(st.attr.size));
                std::mem::replace(&mut st.attr.flags, flags)
            });
            let by = i64::from(flags & frozen != 0) - i64::from(old & frozen != 0);
            if by == 0 { Ok(()) } else { orphans::count(tables, INODES_FROZEN, by) }
        })
    }

    /// The size that an append-only file had when it became one, or when it was first written since the mount.
    pub fn append_from(&self, inode: &Inode) -> u64 {
        let mut st = inode.write();
        let size = st.attr.size;
        *st.append_from.get_or_insert(size)
    }

    /// True when some inode is immutable or append-only.
    pub fn has_frozen(&self) -> Result<bool> {
        self.store.read(|view| Ok(view.counter(INODES_FROZEN)? > 0))
    }

    /// Changes times only, on the way of a read or an overwrite.
    pub fn set_times(&self, inode: &Arc<Inode>, f: impl FnOnce(&mut Attr)) {
        if self.store.check_writable().is_ok() {
            self.update(inode, false, |st| f(&mut st.attr));
            // A failing commit shuts the store down and is reported by whatever comes next.
            let _ = self.relieve();
        }
    }

    /// The kernel was given a reference to `ino`.
    pub fn remember(&self, ino: u64) {
        self.inodes.add_lookup(ino);
    }
}
