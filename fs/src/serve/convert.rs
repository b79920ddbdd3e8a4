//! The terms of `ops` and those of the protocol.

use crate::errno::Errno;
use crate::image::BLOCK;
use crate::image::tables;
use crate::ops::space::StatFs;
use crate::ops::{Answer, Caller, Entry, SetAttr, SetTime};
use crate::options::Options;
use inflight_fuse as fuse;
use inflight_fuse::Reply;
use std::time::Duration;

/// `STATX_BASIC_STATS | STATX_BTIME` of linux/stat.h.
const STATX_KNOWN: u32 = 0xfff;
/// `STATX_ATTR_*` of linux/stat.h that are kept: immutable, append, nodump. They have the numbers of
/// their FS_*_FL.
const ATTRIBUTES_KEPT: u32 = 0x10 | 0x20 | 0x40;

/// How long the kernel may believe an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// Attributes.
    pub attr: Duration,
    /// Names, those that do not exist included.
    pub entry: Duration,
}

impl Timeouts {
    pub(super) fn new(options: &Options) -> Timeouts {
        Timeouts { attr: options.attr_timeout, entry: options.entry_timeout }
    }

    pub(super) fn attr(self, entry: &Entry) -> Reply {
        Reply::Attr { attr: attr(entry), valid: self.attr }
    }

    pub(super) fn statx(self, entry: &Entry) -> Reply {
        let statx = fuse::Statx {
            mask: STATX_KNOWN,
            attr: attr(entry),
            btime: time(entry.attr.btime),
            attributes: (entry.attr.flags & ATTRIBUTES_KEPT).into(),
            attributes_mask: ATTRIBUTES_KEPT.into(),
        };
        Reply::Statx { statx, valid: self.attr }
    }

    pub(super) fn entry(self, entry: &Entry) -> fuse::Entry {
        fuse::Entry {
            nodeid: entry.ino,
            generation: entry.attr.generation.into(),
            entry_valid: self.entry,
            attr_valid: self.attr,
            attr: attr(entry),
        }
    }

    /// The answer to LOOKUP: the kernel also remembers what is not there.
    pub(super) fn looked_up(self, answer: Answer<Entry>) -> Answer<Reply> {
        match answer {
            Err(Errno::ENOENT) if !self.entry.is_zero() => {
                Ok(Reply::Entry(fuse::Entry::negative(self.entry)))
            }
            other => Ok(Reply::Entry(self.entry(&other?))),
        }
    }
}

fn attr(entry: &Entry) -> fuse::Attr {
    let attr = &entry.attr;
    fuse::Attr {
        ino: entry.ino,
        size: attr.size,
        blocks: attr.blocks * (BLOCK / 512),
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK as u32,
        flags: fuse::abi::AttrFlags::default(),
    }
}

fn time(time: tables::Time) -> fuse::Time {
    fuse::Time { seconds: time.secs, nanos: time.nanos }
}

fn own_time(time: fuse::Time) -> tables::Time {
    tables::Time { secs: time.seconds, nanos: time.nanos }
}

pub(super) fn caller(header: &fuse::Header) -> Caller {
    Caller { uid: header.uid, gid: header.gid, pid: header.pid }
}

pub(super) fn set_attr(set: &fuse::Setattr) -> SetAttr {
    let set_time = |time| match time {
        fuse::SetTime::Now => SetTime::Now,
        fuse::SetTime::At(time) => SetTime::At(own_time(time)),
    };
    SetAttr {
        mode: set.mode,
        uid: set.uid,
        gid: set.gid,
        size: set.size,
        atime: set.atime.map(set_time),
        mtime: set.mtime.map(set_time),
        ctime: set.ctime.map(own_time),
        kill_suidgid: set.kill_suidgid,
        handle: set.fh.is_some(),
    }
}

pub(super) fn statfs(statfs: &StatFs) -> Reply {
    Reply::Statfs(fuse::Statfs {
        blocks: statfs.blocks,
        blocks_free: statfs.free,
        blocks_available: statfs.available,
        files: statfs.files,
        files_free: statfs.files_free,
        block_size: BLOCK as u32,
        name_max: statfs.name_max,
        fragment_size: BLOCK as u32,
    })
}

/// A value or its size, as getxattr(2) asks with `size` 0.
pub(super) fn xattr(value: Vec<u8>, size: u32) -> Answer<Reply> {
    match size {
        0 => Ok(Reply::XattrSize(value.len() as u32)),
        _ if value.len() > size as usize => Err(Errno::ERANGE),
        _ => Ok(Reply::Data(value.into())),
    }
}
