//! What a write, a truncation and a chown take away: set-user-ID and set-group-ID bits, and file
//! capabilities (FUSE_HANDLE_KILLPRIV_V2 of linux/fuse.h). The kernel leaves it to the server,
//! which saves it a question on every write.

use crate::errno::Errno;
use crate::image::tables::Attr;
use crate::ops::{Answer, Caller, Fs, WriteArgs, Written};
use crate::volume::CAPABILITY;
use crate::volume::inode::Inode;
use std::sync::Arc;

impl Fs {
    /// Takes capabilities, and with `suidgid` the bits, away from `inode`; true when the mode
    /// changed.
    pub(super) fn drop_privileges(&self, inode: &Arc<Inode>, suidgid: bool) -> Answer<bool> {
        let cleared = |attr: &Attr| if suidgid { cleared(attr) } else { attr.mode };
        self.drop_privileges_to(inode, cleared)
    }

    /// As [`Fs::drop_privileges`] for a caller that is known: setattr_should_drop_suidgid of the kernel (fs/attr.c). Who is
    /// not in the file's group takes set-group-ID away even where nobody may execute. Only the caller's first group
    /// is known here, so in doubt the bit goes.
    pub(super) fn drop_privileges_by(&self, caller: Caller, inode: &Arc<Inode>) -> Answer<bool> {
        self.drop_privileges_to(inode, |attr| match caller {
            Caller { uid: 0, .. } => attr.mode,
            Caller { gid, .. } if gid == attr.gid => cleared(attr),
            _ => cleared(attr) & !libc::S_ISGID,
        })
    }

    /// As [`Fs::write`], by somebody who is known: who is not in the file's group takes set-group-ID away even where nobody
    /// may execute, as `Fs::drop_privileges_by` says. What comes from the kernel's page cache may come in anybody's name.
    ///
    /// # Errors
    /// As for [`Fs::write`].
    pub fn write_by(&self, caller: Caller, args: &WriteArgs, payload: &[u8]) -> Answer<Written> {
        let mut written = self.write(args, payload)?;
        written.privileges |= self.drop_group(caller, args, &self.inode(args.ino)?)?;
        Ok(written)
    }

    /// What a write takes away from a file because of who writes; true when the mode changed.
    pub(super) fn drop_group(
        &self,
        caller: Caller,
        args: &WriteArgs,
        inode: &Arc<Inode>,
    ) -> Answer<bool> {
        let has_bit = inode.read().attr.mode & libc::S_ISGID != 0;
        if !(args.kill_suidgid && !args.cached && has_bit) {
            return Ok(false);
        }
        self.drop_privileges_by(caller, inode)
    }

    fn drop_privileges_to(
        &self,
        inode: &Arc<Inode>,
        cleared: impl Fn(&Attr) -> u32,
    ) -> Answer<bool> {
        let changes = {
            let st = inode.read();
            cleared(&st.attr) != st.attr.mode
        };
        if changes {
            self.volume.set_attr(inode, |attr| attr.mode = cleared(attr))?;
        }
        if self.volume.is_capable(inode)? {
            match self.volume.remove_xattr(inode, CAPABILITY).map_err(Errno::from) {
                Ok(()) | Err(Errno::ENODATA) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(changes)
    }
}

/// The mode without set-user-ID, and without set-group-ID where the group may execute: without
/// that, the bit means mandatory locking, not a privilege.
pub(super) fn cleared(attr: &Attr) -> u32 {
    let group = attr.mode & libc::S_IXGRP != 0;
    attr.mode & !libc::S_ISUID & if group { !libc::S_ISGID } else { !0 }
}
