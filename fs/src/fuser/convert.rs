//! fuser's types and the protocol's.

use fuser::{FileAttr, FileType, Generation, INodeNo, TimeOrNow};
use inflight_fuse as fuse;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) fn attr(attr: &fuse::Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: kind((attr.mode >> 12) as u8),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

/// Attributes as fuser puts them under an entry: their inode number is the node's, which is 0 for a
/// name that is not there.
pub(super) fn entry(entry: &fuse::Entry) -> (FileAttr, Generation) {
    let attributes = FileAttr { ino: INodeNo(entry.nodeid), ..attr(&entry.attr) };
    (attributes, Generation(entry.generation))
}

/// The type behind a DT_* value.
pub(super) fn kind(dtype: u8) -> FileType {
    match dtype {
        libc::DT_DIR => FileType::Directory,
        libc::DT_LNK => FileType::Symlink,
        libc::DT_FIFO => FileType::NamedPipe,
        libc::DT_SOCK => FileType::Socket,
        libc::DT_CHR => FileType::CharDevice,
        libc::DT_BLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// fuser encodes times before 1970 as whole seconds minus nanoseconds: a fraction comes out wrong
/// there unless it is added the other way round.
fn system_time(time: fuse::Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    match u64::try_from(time.seconds) {
        Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds) + nanos,
        Err(_) => UNIX_EPOCH - Duration::from_secs(time.seconds.unsigned_abs()) + nanos,
    }
}

pub(super) fn set_time(time: TimeOrNow) -> fuse::SetTime {
    match time {
        TimeOrNow::Now => fuse::SetTime::Now,
        TimeOrNow::SpecificTime(time) => fuse::SetTime::At(time.into()),
    }
}
