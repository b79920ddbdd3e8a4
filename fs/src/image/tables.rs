//! The rows of the metadata database.
//!
//! | table | key | value |
//! |---|---|---|
//! | `inodes` | inode number | [`InodeRow`] |
//! | `names` | parent, hash of the name, name (big-endian, so a directory is one range) | child, type |
//! | `extents` | inode, first logical block | first image block, length and flag |
//! | `targets` | inode of a symlink | its target |
//! | `xattrs` | inode, attribute name | value |
//! | `orphans` | inode that has no name but is still open | - |
//! | `groups` | number of an allocation group that is neither all free nor all used | bitmap of its blocks, 1 = in use |
//! | `free` | number of 512 allocation groups that are not all free | free blocks of each |
//! | `counters` | name | number |

use crate::image::space::DirtyRows;
use crate::image::view::View;
use redb::{Table, TableDefinition, WriteTransaction};
use siphasher::sip::SipHasher13;
use std::hash::Hasher as _;
use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

type Bytes = &'static [u8];

pub(crate) const INODES: TableDefinition<'_, u64, Bytes> = TableDefinition::new("inodes");
pub(crate) const NAMES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("names");
pub(crate) const EXTENTS: TableDefinition<'_, (u64, u64), (u64, u64)> =
    TableDefinition::new("extents");
pub(crate) const TARGETS: TableDefinition<'_, u64, Bytes> = TableDefinition::new("targets");
pub(crate) const XATTRS: TableDefinition<'_, (u64, Bytes), Bytes> = TableDefinition::new("xattrs");
pub(crate) const ORPHANS: TableDefinition<'_, u64, ()> = TableDefinition::new("orphans");
pub(crate) const GROUPS: TableDefinition<'_, u64, Bytes> = TableDefinition::new("groups");
pub(crate) const FREE: TableDefinition<'_, u64, Bytes> = TableDefinition::new("free");
pub(crate) const COUNTERS: TableDefinition<'_, &'static str, u64> =
    TableDefinition::new("counters");

/// Largest inode number: they are handed out one after the other, so a larger one was made up.
pub const INODE_MAX: u64 = 1 << 62;
/// Counter: the next inode number; numbers are never used twice.
pub const NEXT_INODE: &str = "next_inode";
/// Counter: inodes in use.
pub const INODES_USED: &str = "inodes_used";

/// Counter: immutable and append-only inodes. While it is 0 nobody needs to be asked on open.
pub const INODES_FROZEN: &str = "inodes_frozen";
/// Flags of the inodes that it counts: FS_IMMUTABLE_FL and FS_APPEND_FL of ioctl_iflags(2).
pub const FROZEN: u32 = 0x10 | 0x20;

/// All tables of one write transaction, opened once.
pub struct Tables<'t> {
    pub(crate) inodes: Table<'t, u64, Bytes>,
    pub(crate) names: Table<'t, Bytes, Bytes>,
    pub(crate) extents: Table<'t, (u64, u64), (u64, u64)>,
    pub(crate) targets: Table<'t, u64, Bytes>,
    pub(crate) xattrs: Table<'t, (u64, Bytes), Bytes>,
    pub(crate) orphans: Table<'t, u64, ()>,
    pub(crate) groups: Table<'t, u64, Bytes>,
    pub(crate) free: Table<'t, u64, Bytes>,
    pub(crate) counters: Table<'t, &'static str, u64>,
}

impl<'t> Tables<'t> {
    /// The rows, to be read.
    pub fn view(&self) -> View<'_> {
        View::Running(self)
    }

    /// Stores what changed in the bitmaps.
    ///
    /// # Errors
    /// Those of the database.
    pub fn store_space(&mut self, rows: DirtyRows) -> Result<(), redb::StorageError> {
        fn put(
            table: &mut Table<'_, u64, Bytes>,
            rows: Vec<(u64, Option<Vec<u8>>)>,
        ) -> Result<(), redb::StorageError> {
            for (key, row) in rows {
                match row {
                    Some(row) => drop(table.insert(key, row.as_slice())?),
                    None => drop(table.remove(key)?),
                }
            }
            Ok(())
        }
        put(&mut self.groups, rows.groups)?;
        put(&mut self.free, rows.counts)
    }

    /// Opens, and in a new image creates, every table.
    pub fn open(txn: &'t WriteTransaction) -> Result<Tables<'t>, redb::TableError> {
        Ok(Tables {
            inodes: txn.open_table(INODES)?,
            names: txn.open_table(NAMES)?,
            extents: txn.open_table(EXTENTS)?,
            targets: txn.open_table(TARGETS)?,
            xattrs: txn.open_table(XATTRS)?,
            orphans: txn.open_table(ORPHANS)?,
            groups: txn.open_table(GROUPS)?,
            free: txn.open_table(FREE)?,
            counters: txn.open_table(COUNTERS)?,
        })
    }
}

/// Set in the second number of an extent's value when its blocks hold no data yet.
const UNWRITTEN: u64 = 1 << 63;

/// A run of image blocks that holds a run of file blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block in the image.
    pub start: u64,
    /// Number of blocks, at least 1.
    pub blocks: u64,
    /// Allocated by fallocate(2) and never written: reads as zeros.
    pub unwritten: bool,
}

impl Extent {
    /// The row's value.
    pub fn pack(&self) -> (u64, u64) {
        (self.start, self.blocks | if self.unwritten { UNWRITTEN } else { 0 })
    }

    /// From the row's value.
    pub fn unpack((start, rest): (u64, u64)) -> Extent {
        Extent { start, blocks: rest & !UNWRITTEN, unwritten: rest & UNWRITTEN != 0 }
    }

    /// One past the last image block.
    pub fn end(&self) -> u64 {
        self.start + self.blocks
    }
}

/// Seconds and nanoseconds; before 1970 the seconds are negative, the nanoseconds never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Time {
    /// Seconds since the epoch.
    pub secs: i64,
    /// 0..1_000_000_000.
    pub nanos: u32,
}

impl Time {
    /// The wall clock as of the last tick, which is what the kernel stamps inodes with (current_time of fs/inode.c): a
    /// finer clock would be ahead of times that the kernel sets later.
    pub fn now() -> Time {
        #[cfg(feature = "testing")]
        if let Some(time) = stopped_clock::get() {
            return time;
        }
        let t = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME_COARSE)
            .unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
        Time { secs: t.tv_sec(), nanos: t.tv_nsec() as u32 }
    }
}

/// A clock that tests stop, so that images come out the same.
#[cfg(feature = "testing")]
pub mod stopped_clock {
    use super::Time;
    use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

    static SECS: AtomicI64 = AtomicI64::new(0);

    /// Stops the clock of this process `secs` seconds after 1970, which must not be 0.
    pub fn stop(secs: i64) {
        SECS.store(secs, SeqCst);
    }

    pub(super) fn get() -> Option<Time> {
        let secs = SECS.load(SeqCst);
        (secs != 0).then_some(Time { secs, nanos: 123_456_789 })
    }
}

/// Attributes of an inode, as every layer passes them around.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Attr {
    /// Type and permissions, as st_mode.
    pub mode: u32,
    /// Number of names; a directory counts 2 and one for each subdirectory.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, in the kernel's 32-bit form.
    pub rdev: u32,
    /// FS_*_FL bits of ioctl_iflags(2).
    pub flags: u32,
    /// FS_XFLAG_* bits that have no FS_*_FL twin.
    pub xflags: u32,
    /// Project id of FS_IOC_FSSETXATTR.
    pub project: u32,
    /// Tells a reused number apart; constant for the life of the inode.
    pub generation: u32,
    /// Bytes.
    pub size: u64,
    /// Allocated blocks of 4096 bytes.
    pub blocks: u64,
    /// Directory that holds this directory; 0 for other types.
    pub parent: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the contents.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Creation.
    pub btime: Time,
}

impl Attr {
    /// The S_IFMT part of the mode.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    /// True for a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == libc::S_IFREG
    }
}

/// The on-disk form of [`Attr`].
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct InodeRow {
    mode: U32,
    nlink: U32,
    uid: U32,
    gid: U32,
    rdev: U32,
    flags: U32,
    xflags: U32,
    project: U32,
    generation: U32,
    nanos: [U32; 4],
    reserved: U32,
    size: U64,
    blocks: U64,
    parent: U64,
    secs: [I64; 4],
}

impl InodeRow {
    /// Encodes.
    pub fn new(a: &Attr) -> InodeRow {
        let times = [a.atime, a.mtime, a.ctime, a.btime];
        InodeRow {
            mode: a.mode.into(),
            nlink: a.nlink.into(),
            uid: a.uid.into(),
            gid: a.gid.into(),
            rdev: a.rdev.into(),
            flags: a.flags.into(),
            xflags: a.xflags.into(),
            project: a.project.into(),
            generation: a.generation.into(),
            nanos: times.map(|t| t.nanos.into()),
            reserved: 0.into(),
            size: a.size.into(),
            blocks: a.blocks.into(),
            parent: a.parent.into(),
            secs: times.map(|t| t.secs.into()),
        }
    }

    /// Decodes; `None` when the row has another length.
    pub fn decode(bytes: &[u8]) -> Option<Attr> {
        let row = InodeRow::ref_from_bytes(bytes).ok()?;
        let time = |i: usize| Time { secs: row.secs[i].get(), nanos: row.nanos[i].get() };
        Some(Attr {
            mode: row.mode.get(),
            nlink: row.nlink.get(),
            uid: row.uid.get(),
            gid: row.gid.get(),
            rdev: row.rdev.get(),
            flags: row.flags.get(),
            xflags: row.xflags.get(),
            project: row.project.get(),
            generation: row.generation.get(),
            size: row.size.get(),
            blocks: row.blocks.get(),
            parent: row.parent.get(),
            atime: time(0),
            mtime: time(1),
            ctime: time(2),
            btime: time(3),
        })
    }
}

/// Directory offsets below this one belong to "." and ".."; no hash is smaller.
pub const HASH_MIN: u64 = 16;

/// The hash that orders the names of a directory: keyed, so nobody can choose names that collide;
/// 63 bits, because it is also the directory offset and offsets are signed.
pub fn name_hash(key: &[u8; 16], name: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(name);
    (hasher.finish() >> 1).max(HASH_MIN)
}

/// Key of a name: `parent`, then `hash`, then the name itself.
pub fn name_key(parent: u64, hash: u64, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(16 + name.len());
    key.extend_from_slice(&parent.to_be_bytes());
    key.extend_from_slice(&hash.to_be_bytes());
    key.extend_from_slice(name);
    key
}

/// Splits a key of `names` into parent, hash and name; `None` when it is too short.
pub fn split_name_key(key: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (parent, rest) = key.split_first_chunk::<8>()?;
    let (hash, name) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*parent), u64::from_be_bytes(*hash), name))
}

/// Value of a name: the child's inode number and its DT_* type.
pub fn name_value(ino: u64, kind: u8) -> [u8; 9] {
    let mut value = [0; 9];
    value[..8].copy_from_slice(&ino.to_le_bytes());
    value[8] = kind;
    value
}

/// Reads the value of a name; `None` when it has another length.
pub fn split_name_value(value: &[u8]) -> Option<(u64, u8)> {
    let (ino, rest) = value.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*ino), *rest.first()?))
}

/// DT_* type of a mode.
pub fn dtype(mode: u32) -> u8 {
    ((mode & libc::S_IFMT) >> 12) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_ahead_of_what_the_kernel_says_afterwards() {
        for _ in 0..1000 {
            let now = Time::now();
            let kernel = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME_COARSE);
            let kernel = kernel.expect("a clock");
            assert!((now.secs, i64::from(now.nanos)) <= (kernel.tv_sec(), kernel.tv_nsec()));
        }
    }

    #[test]
    fn rows_survive_their_encoding() {
        let attr = Attr {
            mode: 0o100644,
            nlink: 3,
            uid: 1,
            gid: 2,
            rdev: 0,
            flags: 0x10,
            xflags: 0,
            project: 9,
            generation: 77,
            size: u64::MAX >> 1,
            blocks: 12,
            parent: 0,
            atime: Time { secs: -5, nanos: 999_999_999 },
            mtime: Time { secs: i64::from(u32::MAX) * 3, nanos: 1 },
            ctime: Time::default(),
            btime: Time { secs: 1, nanos: 2 },
        };
        assert_eq!(InodeRow::decode(InodeRow::new(&attr).as_bytes()), Some(attr));
        let e = Extent { start: 5, blocks: 1 << 40, unwritten: true };
        assert_eq!(Extent::unpack(e.pack()), e);
        let key = name_key(3, 9, b"a");
        assert_eq!(split_name_key(&key), Some((3, 9, &b"a"[..])));
        assert_eq!(split_name_value(&name_value(8, 4)), Some((8, 4)));
    }
}
