//! Attributes in plain Rust.

use crate::abi::{self, AttrFlags};
use crate::time::Time;
use std::time::Duration;

/// How long the kernel may believe an answer: for ever. What it stores saturates anyhow.
pub const FOREVER: Duration = Duration::from_secs(u64::MAX);

/// Attributes of an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Inode number as stat(2) shows it.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// Number of links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node: the low 32 bits of `dev_t`, which hold 12 bits of major
    /// and 20 of minor.
    pub rdev: u32,
    /// Preferred size of I/O in bytes; 0 for the kernel's choice.
    pub blksize: u32,
    /// Submount, DAX.
    pub flags: AttrFlags,
}

impl From<Attr> for abi::Attr {
    fn from(attr: Attr) -> abi::Attr {
        abi::Attr {
            ino: attr.ino,
            size: attr.size,
            blocks: attr.blocks,
            atime: attr.atime.wire_seconds(),
            mtime: attr.mtime.wire_seconds(),
            ctime: attr.ctime.wire_seconds(),
            atimensec: attr.atime.nanos,
            mtimensec: attr.mtime.nanos,
            ctimensec: attr.ctime.nanos,
            mode: attr.mode,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            blksize: attr.blksize,
            flags: attr.flags.bits(),
        }
    }
}

impl From<abi::Attr> for Attr {
    fn from(attr: abi::Attr) -> Attr {
        Attr {
            ino: attr.ino,
            size: attr.size,
            blocks: attr.blocks,
            atime: Time::from_wire(attr.atime, attr.atimensec),
            mtime: Time::from_wire(attr.mtime, attr.mtimensec),
            ctime: Time::from_wire(attr.ctime, attr.ctimensec),
            mode: attr.mode,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            blksize: attr.blksize,
            flags: AttrFlags::from_bits_retain(attr.flags),
        }
    }
}

/// An answer that makes the kernel know an inode; it counts as one lookup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Number by which requests will name the inode; 0 says that there is no such name.
    pub nodeid: u64,
    /// Together with the number unique for ever.
    pub generation: u64,
    /// How long the name may be believed.
    pub entry_valid: Duration,
    /// How long the attributes may be believed.
    pub attr_valid: Duration,
    /// The attributes.
    pub attr: Attr,
}

impl Entry {
    /// A name that does not exist, to be remembered for `valid`.
    pub fn negative(valid: Duration) -> Entry {
        Entry { entry_valid: valid, ..Entry::default() }
    }
}

impl From<Entry> for abi::EntryOut {
    fn from(entry: Entry) -> abi::EntryOut {
        abi::EntryOut {
            nodeid: entry.nodeid,
            generation: entry.generation,
            entry_valid: entry.entry_valid.as_secs(),
            attr_valid: entry.attr_valid.as_secs(),
            entry_valid_nsec: entry.entry_valid.subsec_nanos(),
            attr_valid_nsec: entry.attr_valid.subsec_nanos(),
            attr: entry.attr.into(),
        }
    }
}

/// What statx(2) can tell beyond [`Attr`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statx {
    /// Which fields count, `STATX_*`.
    pub mask: u32,
    /// The attributes.
    pub attr: Attr,
    /// Time of creation.
    pub btime: Time,
    /// `STATX_ATTR_*` that are set.
    pub attributes: u64,
    /// `STATX_ATTR_*` that are known.
    pub attributes_mask: u64,
}

impl From<Statx> for abi::Statx {
    fn from(statx: Statx) -> abi::Statx {
        let time = |time: Time| abi::SxTime {
            tv_sec: time.seconds,
            tv_nsec: time.nanos,
            ..abi::SxTime::default()
        };
        let attr = statx.attr;
        abi::Statx {
            mask: statx.mask,
            blksize: attr.blksize,
            attributes: statx.attributes,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            mode: attr.mode as u16,
            ino: attr.ino,
            size: attr.size,
            blocks: attr.blocks,
            attributes_mask: statx.attributes_mask,
            atime: time(attr.atime),
            btime: time(statx.btime),
            ctime: time(attr.ctime),
            mtime: time(attr.mtime),
            rdev_major: nix::libc::major(attr.rdev.into()),
            rdev_minor: nix::libc::minor(attr.rdev.into()),
            ..abi::Statx::default()
        }
    }
}

/// What statfs(2) tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statfs {
    /// Size in units of `fragment_size`.
    pub blocks: u64,
    /// Free.
    pub blocks_free: u64,
    /// Free for an ordinary user.
    pub blocks_available: u64,
    /// Inodes.
    pub files: u64,
    /// Inodes that are free.
    pub files_free: u64,
    /// Preferred size of I/O in bytes.
    pub block_size: u32,
    /// Longest name in bytes.
    pub name_max: u32,
    /// The unit of sizes in bytes.
    pub fragment_size: u32,
}

impl From<Statfs> for abi::Kstatfs {
    fn from(statfs: Statfs) -> abi::Kstatfs {
        abi::Kstatfs {
            blocks: statfs.blocks,
            bfree: statfs.blocks_free,
            bavail: statfs.blocks_available,
            files: statfs.files,
            ffree: statfs.files_free,
            bsize: statfs.block_size,
            namelen: statfs.name_max,
            frsize: statfs.fragment_size,
            ..abi::Kstatfs::default()
        }
    }
}

/// A lock on a range of a file, as fcntl(2) knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileLock {
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; 2^63 - 1 for the end of the file.
    pub end: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: u32,
    /// Process (thread group) that has it.
    pub pid: u32,
}

impl From<FileLock> for abi::FileLock {
    fn from(lock: FileLock) -> abi::FileLock {
        abi::FileLock { start: lock.start, end: lock.end, r#type: lock.kind, pid: lock.pid }
    }
}

impl From<abi::FileLock> for FileLock {
    fn from(lock: abi::FileLock) -> FileLock {
        FileLock { start: lock.start, end: lock.end, kind: lock.r#type, pid: lock.pid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_way_there_and_back() {
        let attr = Attr {
            ino: 9,
            size: u64::MAX,
            mtime: Time { seconds: -2, nanos: 999_999_999 },
            rdev: 0xfff0_0103,
            flags: AttrFlags::DAX,
            ..Attr::default()
        };
        assert_eq!(Attr::from(abi::Attr::from(attr)), attr);
    }

    #[test]
    fn statx_takes_a_device_number_apart() {
        let attr = Attr { rdev: nix::libc::makedev(8, 300) as u32, ..Attr::default() };
        let statx = abi::Statx::from(Statx { attr, ..Statx::default() });
        assert_eq!((statx.rdev_major, statx.rdev_minor), (8, 300));
    }
}
