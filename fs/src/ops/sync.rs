//! fsync, fsyncdir, syncfs.

use crate::image::store::Recovery;
use crate::ops::{Answer, DIRSYNC, Fs};

impl Fs {
    /// fsync(2) or, with `data_only`, fdatasync(2).
    pub fn fsync(&self, ino: u64, data_only: bool) -> Answer<()> {
        if self.options.read_only {
            return Ok(());
        }
        let inode = self.inode(ino)?;
        Ok(self.volume.sync_inode(&inode, data_only)?)
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

    /// Whether a change would wait for the flushes of a commit that is under way.
    pub fn is_committing(&self) -> bool {
        self.volume.store().is_committing()
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
