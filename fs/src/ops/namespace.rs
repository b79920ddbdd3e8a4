//! unlink, rmdir, rename.

use crate::errno::Errno;
use crate::ops::{Answer, Caller, Fs};

impl Fs {
    /// Removes a name that is not a directory.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Answer<()> {
        self.volume.remove(parent, name, false)?;
        self.settle_dirs(&[parent])
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Answer<()> {
        match name {
            b"." => return Err(Errno::EINVAL),
            b".." => return Err(Errno::ENOTEMPTY),
            _ => self.volume.remove(parent, name, true)?,
        }
        self.settle_dirs(&[parent])
    }

    /// renameat2(2) with its RENAME_* flags.
    ///
    /// # Errors
    /// EINVAL for flags that are unknown or contradict each other.
    pub fn rename(
        &self,
        caller: Caller,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        flags: u32,
    ) -> Answer<()> {
        let (no_replace, exchange, whiteout) = (
            flags & libc::RENAME_NOREPLACE != 0,
            flags & libc::RENAME_EXCHANGE != 0,
            flags & libc::RENAME_WHITEOUT != 0,
        );
        let known = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT;
        if flags & !known != 0 || exchange && (no_replace || whiteout) {
            return Err(Errno::EINVAL);
        }
        let white =
            whiteout.then(|| self.new_inode(caller, from.0, libc::S_IFCHR, 0)).transpose()?;
        self.volume.rename(from, to, no_replace, exchange, white.as_ref())?;
        self.settle_dirs(&[from.0, to.0])
    }
}
