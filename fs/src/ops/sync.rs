//! fsync, fsyncdir, syncfs.

use crate::image::store::Recovery;
use crate::ops::{Answer, Fs};

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

    /// Everything is durable.
    pub fn syncfs(&self) -> Answer<()> {
        if self.options.read_only {
            return Ok(());
        }
        Ok(self.volume.commit_if_changed(Recovery::Walk)?)
    }
}
