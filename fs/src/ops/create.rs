//! mknod, mkdir, symlink, create, tmpfile, link.

use crate::ops::{Answer, Caller, DIRSYNC, Entry, Fs};
use crate::volume::NewInode;

/// FS_*_FL bits that a new inode takes from its directory: nodump, noatime, dirsync,
/// projinherit (EXT4_FL_INHERITED without what only ext4 means or is not kept).
const INHERITED: u32 = 0x40 | 0x80 | DIRSYNC | 0x2000_0000;
/// FS_PROJINHERIT_FL.
const PROJINHERIT: u32 = 0x2000_0000;

/// A name to make.
#[derive(Clone, Copy, Debug)]
pub struct Make<'a> {
    /// Who makes it.
    pub caller: Caller,
    /// Directory.
    pub parent: u64,
    /// Name in it.
    pub name: &'a [u8],
    /// Type and permissions, the umask not applied.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Target of a symlink.
    pub target: Option<&'a [u8]>,
    /// Attributes that it begins with: what a security module labels it with.
    pub security: &'a [(Vec<u8>, Vec<u8>)],
}

/// A file to make without a name (O_TMPFILE).
#[derive(Clone, Copy, Debug)]
pub struct Unnamed<'a> {
    /// Who makes it.
    pub caller: Caller,
    /// Directory that decides on owner and ACL.
    pub parent: u64,
    /// Permissions, the umask not applied.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// As in [`Make`].
    pub security: &'a [(Vec<u8>, Vec<u8>)],
}

impl Fs {
    /// Makes any kind of inode. The kernel gets a reference.
    pub fn make(&self, make: &Make<'_>) -> Answer<Entry> {
        let mut new = self.new_inode(make.caller, make.parent, make.mode, make.umask)?;
        new.rdev = make.rdev;
        new.target = make.target.map(<[u8]>::to_vec);
        new.xattrs.extend_from_slice(make.security);
        let inode = self.volume.make(make.parent, make.name, &new)?;
        self.settle_dirs(&[make.parent])?;
        Ok(self.known_entry(&inode))
    }

    /// Makes a file that has no name yet. The kernel gets a reference.
    pub fn tmpfile(&self, make: &Unnamed<'_>) -> Answer<Entry> {
        let mode = libc::S_IFREG | make.mode & 0o7777;
        let mut new = self.new_inode(make.caller, make.parent, mode, make.umask)?;
        new.xattrs.extend_from_slice(make.security);
        let inode = self.volume.make_unnamed(make.parent, &new)?;
        Ok(self.known_entry(&inode))
    }

    /// Gives an inode one more name. The kernel gets a reference.
    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Answer<Entry> {
        let inode = self.volume.link(ino, parent, name)?;
        self.settle_dirs(&[parent])?;
        Ok(self.known_entry(&inode))
    }

    pub(super) fn new_inode(
        &self,
        caller: Caller,
        parent: u64,
        mode: u32,
        umask: u32,
    ) -> Answer<NewInode> {
        let dir = self.inode(parent)?.attr();
        let inherited = self.inherit(parent, mode, umask)?;
        let setgid = dir.mode & libc::S_ISGID != 0;
        let is_dir = mode & libc::S_IFMT == libc::S_IFDIR;
        let regular = is_dir || mode & libc::S_IFMT == libc::S_IFREG;
        Ok(NewInode {
            mode: inherited.mode | if setgid && is_dir { libc::S_ISGID } else { 0 },
            uid: caller.uid,
            gid: if setgid { dir.gid } else { caller.gid },
            rdev: 0,
            target: None,
            xattrs: inherited.xattrs,
            // Only directories have a use for dirsync (ext4_mask_flags).
            flags: if regular {
                dir.flags & INHERITED & if is_dir { !0 } else { !DIRSYNC }
            } else {
                0
            },
            project: if dir.flags & PROJINHERIT != 0 { dir.project } else { 0 },
        })
    }
}
