//! lookup, forget, getattr, setattr, readlink.

use crate::errno::Errno;
use crate::image::tables::Time;
use crate::mutant::{self, Mutant};
use crate::ops::frozen::Change;
use crate::ops::{APPEND, Answer, Entry, Fs, IMMUTABLE};

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// UTIME_NOW.
    Now,
    /// This one.
    At(Time),
}

impl SetTime {
    fn get(self) -> Time {
        match self {
            SetTime::Now => Time::now(),
            SetTime::At(time) => time,
        }
    }
}

/// What setattr is to change; `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the contents.
    pub mtime: Option<SetTime>,
    /// Last change of anything: a kernel that caches writes keeps it.
    pub ctime: Option<Time>,
    /// The caller may not keep set-user-ID and set-group-ID bits (FATTR_KILL_SUIDGID).
    pub kill_suidgid: bool,
    /// The kernel named an open file (FATTR_FH).
    pub handle: bool,
}

impl Fs {
    /// The entry behind a name. The kernel gets a reference.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Answer<Entry> {
        // "." and ".." come from open_by_handle_at(2), which knows inodes without a name.
        let ino = match name {
            b"." => parent,
            b".." => self.inode(parent)?.attr().parent,
            _ => match self.volume.lookup(parent, name)? {
                Some(ino) => ino,
                None if !self.inode(parent)?.attr().is_dir() => return Err(Errno::ENOTDIR),
                None => return Err(Errno::ENOENT),
            },
        };
        Ok(self.known_entry(&*self.inode(ino)?))
    }

    /// The kernel gives back `n` references.
    pub fn forget(&self, ino: u64, n: u64) {
        self.forget_shortage(ino);
        if let Err(e) = self.volume.forget(ino, n) {
            tracing::error!("inode {ino} could not be reclaimed: {e}");
        }
    }

    /// Attributes.
    pub fn getattr(&self, ino: u64) -> Answer<Entry> {
        Ok(self.entry(&*self.inode(ino)?))
    }

    /// Changes attributes.
    pub fn setattr(&self, ino: u64, set: &SetAttr) -> Answer<Entry> {
        let inode = self.inode(ino)?;
        let attr = inode.attr();
        if self.check_setattr(&attr, set)? == Change::Ignore {
            return Ok(self.entry(&inode));
        }
        if let Some(size) = set.size {
            match attr.mode & libc::S_IFMT {
                libc::S_IFREG => self.volume.set_size(&inode, size)?,
                libc::S_IFDIR => return Err(Errno::EISDIR),
                _ => return Err(Errno::EINVAL),
            }
        }
        let chown = !attr.is_dir() && (set.uid.is_some() || set.gid.is_some());
        if set.size.is_some() || chown {
            self.drop_privileges(&inode, set.kill_suidgid || chown)?;
        }
        self.set_attr_and_acl(&inode, set.mode, |attr| {
            attr.ctime = set.ctime.unwrap_or_else(Time::now);
            if let Some(mode) = set.mode {
                attr.mode = attr.mode & libc::S_IFMT | mode & 0o7777;
            }
            attr.uid = set.uid.unwrap_or(attr.uid);
            attr.gid = set.gid.unwrap_or(attr.gid);
            attr.atime = set.atime.map_or(attr.atime, SetTime::get);
            attr.mtime = set.mtime.map_or(attr.mtime, SetTime::get);
        })?;
        let mut entry = self.entry(&inode);
        if mutant::is(Mutant::StaleSize) {
            entry.attr.size = attr.size;
        }
        Ok(entry)
    }

    /// Whether a file may be opened with these O_* flags. The kernel knows permissions, but not
    /// immutable and append-only files.
    pub fn open(&self, ino: u64, flags: i32) -> Answer<()> {
        let attr = self.inode(ino)?.attr();
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
        let appends = flags & libc::O_APPEND != 0 && flags & libc::O_TRUNC == 0;
        let refused = attr.flags & IMMUTABLE != 0 || attr.flags & APPEND != 0 && !appends;
        if writes && refused { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// The target of a symlink.
    pub fn readlink(&self, ino: u64) -> Answer<Vec<u8>> {
        let inode = self.inode(ino)?;
        let target = self.volume.target(ino)?;
        self.accessed(&inode);
        Ok(target)
    }
}
