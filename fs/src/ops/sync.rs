//! fsync, fsyncdir, syncfs.

use crate::image::store::Recovery;
use crate::ops::{Answer, DIRSYNC, Fs, WriteArgs};
use std::fs::File;
use std::io;
use std::sync::Arc;

impl Fs {
    /// fsync(2) or, with `data_only`, fdatasync(2).
    pub fn fsync(&self, ino: u64, data_only: bool) -> Answer<()> {
        if self.options.read_only {
            return Ok(());
        }
        let inode = self.inode(ino)?;
        Ok(self.volume.sync_inode(&inode, data_only)?)
    }

    /// The image, where a flush of it is all that [`Fs::fsync`] would do: see [`Fs::flushed`].
    pub fn flush_only(&self, ino: u64, data_only: bool) -> Option<Arc<File>> {
        let file = self.io.cached_file().filter(|_| !self.options.read_only)?;
        let inode = self.inode(ino).ok()?;
        self.volume.needs_flush_only(&inode, data_only).then(|| Arc::clone(file))
    }

    /// Ends an fsync(2) whose flush somebody else made.
    ///
    /// # Errors
    /// EIO and ENOSPC of the flush; nothing is written to the image any more then.
    pub fn flushed(&self, result: io::Result<()>) -> Answer<()> {
        Ok(self.volume.flushed(result)?)
    }

    /// fsync(2) of a directory: what was done to its names is durable.
    pub fn fsyncdir(&self) -> Answer<()> {
        self.syncfs()
    }

    /// Whether a change of names in `dirs` is durable before it is answered: where the mount or one of them says so (`-o
    /// sync`, `-o dirsync`, `chattr +D`).
    pub fn settles(&self, dirs: &[u64]) -> bool {
        let flagged =
            |ino: &u64| self.inode(*ino).is_ok_and(|dir| dir.read().attr.flags & DIRSYNC != 0);
        self.dirsync || dirs.iter().any(flagged)
    }

    /// Whether a write of `len` bytes may wait for more than short locks: for the device, for another writer, for room.
    pub fn write_waits(&self, args: &WriteArgs, len: usize) -> bool {
        let busy = || match self.inode(args.ino) {
            Ok(inode) => self.volume.write_waits(&inode, args.offset, len),
            Err(_) => false,
        };
        self.writes_directly(args, len) || busy()
    }

    /// Whether giving a file this size may wait for more than short locks: as [`Fs::write_waits`].
    pub fn resize_waits(&self, ino: u64, size: u64) -> bool {
        self.inode(ino).is_ok_and(|inode| self.volume.resize_waits(&inode, size))
    }

    /// Whether a change of names in `dirs` may wait: for its commit, for one that is under way, or for one that little room
    /// makes necessary.
    pub fn change_waits(&self, dirs: &[u64]) -> bool {
        self.settles(dirs) || self.volume.change_waits()
    }

    /// Names in `dirs` were changed.
    pub(super) fn settle_dirs(&self, dirs: &[u64]) -> Answer<()> {
        if self.settles(dirs) { self.syncfs() } else { Ok(()) }
    }

    /// Everything is durable.
    pub fn syncfs(&self) -> Answer<()> {
        if self.options.read_only {
            return Ok(());
        }
        Ok(self.volume.commit_if_changed(Recovery::Walk)?)
    }
}
