//! fuser's types and ours.

use crate::image::BLOCK;
use crate::image::tables::{Attr, Time};
use crate::ops::{Caller, Entry, SetTime};
use fuser::{FileAttr, FileType, INodeNo, Request, TimeOrNow};
use inflight_fuse::abi::Opcode;
use inflight_gate::Subject;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The caller of a request.
pub fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), pid: req.pid() }
}

/// A request as the gate sees it.
pub fn subject(req: &Request, opcode: Opcode, ino: INodeNo) -> Subject {
    Subject {
        unique: req.unique().0,
        opcode,
        ino: ino.0,
        pid: req.pid(),
        uid: req.uid(),
        ..Subject::default()
    }
}

/// A subject with a byte range.
pub fn ranged(req: &Request, opcode: Opcode, ino: INodeNo, offset: u64, len: u64) -> Subject {
    Subject { offset, len, ..subject(req, opcode, ino) }
}

/// An errno for fuser.
pub fn errno(e: crate::errno::Errno) -> fuser::Errno {
    fuser::Errno::from_i32(e as i32)
}

/// Attributes for fuser.
pub fn attr(entry: &Entry) -> FileAttr {
    let Attr { mode, nlink, uid, gid, rdev, size, blocks, .. } = entry.attr;
    FileAttr {
        ino: INodeNo(entry.ino),
        size,
        blocks: blocks * (BLOCK / 512),
        atime: system_time(entry.attr.atime),
        mtime: system_time(entry.attr.mtime),
        ctime: system_time(entry.attr.ctime),
        crtime: system_time(entry.attr.btime),
        kind: kind((mode >> 12) as u8),
        perm: (mode & 0o7777) as u16,
        nlink,
        uid,
        gid,
        rdev,
        blksize: BLOCK as u32,
        flags: 0,
    }
}

/// Attributes of "no such entry": inode 0 with a time to live, which the kernel remembers.
pub fn negative() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK as u32,
        flags: 0,
    }
}

/// The type behind a DT_* value.
pub fn kind(dtype: u8) -> FileType {
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

/// A time for fuser. It encodes times before 1970 as whole seconds minus nanoseconds, so a
/// fraction comes out wrong there; our own decoder will not have that.
fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    match u64::try_from(time.secs) {
        Ok(secs) => UNIX_EPOCH + Duration::from_secs(secs) + nanos,
        Err(_) => UNIX_EPOCH - Duration::from_secs(time.secs.unsigned_abs()) + nanos,
    }
}

/// A time from fuser.
pub fn time(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time { secs: after.as_secs() as i64, nanos: after.subsec_nanos() },
        Err(e) => {
            let before = e.duration();
            let (secs, nanos) = (before.as_secs() as i64, before.subsec_nanos());
            match nanos {
                0 => Time { secs: -secs, nanos: 0 },
                _ => Time { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
            }
        }
    }
}

/// A time to set, from fuser.
pub fn set_time(time_or_now: TimeOrNow) -> SetTime {
    match time_or_now {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(t) => SetTime::At(time(t)),
    }
}
