//! Extended attributes.

use crate::errno::Errno;
use crate::image::mkfs::ROOT;
use crate::ops::acl::{self, Acl};
use crate::ops::{Answer, Caller, Fs, check_unfrozen};
use crate::volume::SetMode;

/// Attribute of the root that holds what `inflight stat` shows, as JSON. It is not listed.
pub const STAT: &[u8] = b"user.inflight.stat";

impl Fs {
    /// The value of an attribute.
    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Answer<Vec<u8>> {
        if ino == ROOT && name == STAT {
            return Ok(serde_json::to_vec(&self.report()).unwrap_or_default());
        }
        Ok(self.volume.xattr(ino, name)?)
    }

    /// All names that the caller may know of, each followed by a zero byte: those of the trusted class are for
    /// administrators (xattr(7)), whose capabilities a request does not tell; root has them.
    pub fn listxattr(&self, caller: Caller, ino: u64) -> Answer<Vec<u8>> {
        let mut names = self.volume.xattr_list(ino)?;
        names.retain(|name| caller.uid == 0 || !name.starts_with(b"trusted."));
        names.iter_mut().for_each(|name| name.push(0));
        Ok(names.concat())
    }

    /// setxattr(2) with its XATTR_* flags.
    pub fn setxattr(
        &self,
        caller: Caller,
        ino: u64,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Answer<()> {
        let inode = self.inode(ino)?;
        check_unfrozen(&inode.attr())?;
        let mode = match flags {
            0 => SetMode::Any,
            libc::XATTR_CREATE => SetMode::Create,
            libc::XATTR_REPLACE => SetMode::Replace,
            _ => return Err(Errno::EINVAL),
        };
        match name {
            acl::ACCESS => return self.set_access_acl(caller, &inode, value),
            acl::DEFAULT if !inode.attr().is_dir() => return Err(Errno::EACCES),
            acl::DEFAULT => {
                Acl::decode(value).ok_or(Errno::EINVAL)?;
            }
            _ => {}
        }
        Ok(self.volume.set_xattr(&inode, name, value, mode)?)
    }

    /// removexattr(2).
    pub fn removexattr(&self, ino: u64, name: &[u8]) -> Answer<()> {
        let inode = self.inode(ino)?;
        check_unfrozen(&inode.attr())?;
        match self.volume.remove_xattr(&inode, name).map_err(Errno::from) {
            // Removing an ACL that is not there is no error (set_posix_acl in fs/posix_acl.c).
            Err(Errno::ENODATA) if [acl::ACCESS, acl::DEFAULT].contains(&name) => Ok(()),
            other => other,
        }
    }
}
