//! Answers, through fuser's reply objects.

use super::convert;
use crate::serve::{Answers, Kernel};
use fuser::{
    FileHandle, FopenFlags, INodeNo, Notifier, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr,
};
use inflight_fuse::abi::{Dirent, EntryOut};
use inflight_fuse::{Attr, Data, Entry, Notification, Opened, Reply};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;
use zerocopy::FromBytes as _;

/// Notifications through fuser.
pub struct Notices(pub Notifier);

impl Kernel for Notices {
    fn notify(&self, notification: &Notification<'_>) {
        // The only one that is sent. ENOENT: the kernel has forgotten the inode.
        if let Notification::InvalInode { nodeid, offset, len } = *notification {
            let _ = self.0.inval_inode(INodeNo(nodeid), offset, len);
        }
    }
}

/// Of a request that has no answer.
pub struct Unanswered;

impl Answers for Unanswered {
    fn send(self: Box<Self>, _: Reply) {}

    fn abandon(self: Box<Self>) {}
}

/// The bytes of an answer that has some.
fn bytes(data: &Data) -> Vec<u8> {
    data.slices().collect::<Vec<_>>().concat()
}

macro_rules! answers {
    ($($kind:ident($reply:ident, $answer:ident) { $($pattern:pat => $send:expr,)* })*) => {$(
        impl Answers for $kind {
            fn send(self: Box<Self>, $answer: Reply) {
                let $reply = *self;
                match $answer {
                    Reply::Error(errno) => $reply.error(fuser::Errno::from_i32(errno as i32)),
                    $($pattern => $send,)*
                    other => {
                        tracing::error!("fuser cannot say {other:?} here");
                        $reply.error(fuser::Errno::EIO);
                    }
                }
            }

            fn abandon(self: Box<Self>) {
                // Dropped, it would answer EIO.
                std::mem::forget(self);
            }
        }
    )*};
}

answers! {
    ReplyEmpty(reply, answer) {
        Reply::Empty => reply.ok(),
    }
    ReplyEntry(reply, answer) {
        Reply::Entry(entry) => {
            let (attr, generation) = convert::entry(&entry);
            reply.entry_with_ttls(&entry.attr_valid, &entry.entry_valid, &attr, generation);
        },
    }
    ReplyAttr(reply, answer) {
        Reply::Attr { attr, valid } => reply.attr(&valid, &convert::attr(&attr)),
    }
    ReplyData(reply, answer) {
        Reply::Data(data) => match data.slices().collect::<Vec<_>>()[..] {
            [] => reply.data(&[]),
            [only] => reply.data(only),
            _ => reply.data(&bytes(&data)),
        },
    }
    ReplyOpen(reply, answer) {
        Reply::Opened(opened) => reply.opened(FileHandle(opened.fh), flags(&opened)),
    }
    ReplyCreate(reply, answer) {
        Reply::Created { entry, opened } => {
            let (attr, generation) = convert::entry(&entry);
            let handle = FileHandle(opened.fh);
            reply.created(&entry.entry_valid, &attr, generation, handle, flags(&opened));
        },
    }
    ReplyWrite(reply, answer) {
        Reply::Written(bytes) => reply.written(bytes),
    }
    ReplyStatfs(reply, answer) {
        Reply::Statfs(s) => reply.statfs(
            s.blocks,
            s.blocks_free,
            s.blocks_available,
            s.files,
            s.files_free,
            s.block_size,
            s.name_max,
            s.fragment_size,
        ),
    }
    ReplyXattr(reply, answer) {
        Reply::XattrSize(size) => reply.size(size),
        Reply::Data(data) => reply.data(&bytes(&data)),
    }
    ReplyIoctl(reply, answer) {
        Reply::Ioctl { result, data } => reply.ioctl(result, &bytes(&data)),
    }
    ReplyLseek(reply, answer) {
        Reply::Offset(offset) => reply.offset(offset as i64),
    }
    ReplyDirectory(reply, answer) {
        Reply::Data(data) => list(reply, &bytes(&data)),
    }
    ReplyDirectoryPlus(reply, answer) {
        Reply::Data(data) => list_plus(reply, &bytes(&data)),
    }
}

fn flags(opened: &Opened) -> FopenFlags {
    FopenFlags::from_bits_retain(opened.flags.bits())
}

/// Takes the entry at the start of packed entries off.
fn entry<'a>(rest: &mut &'a [u8]) -> Option<(Dirent, &'a OsStr)> {
    let (dirent, after) = Dirent::read_from_prefix(rest).ok()?;
    let len = dirent.namelen as usize;
    let name = OsStr::from_bytes(after.get(..len)?);
    *rest = after.get(len.next_multiple_of(8)..).unwrap_or_default();
    Some((dirent, name))
}

fn list(mut reply: ReplyDirectory, mut rest: &[u8]) {
    while let Some((dirent, name)) = entry(&mut rest) {
        let kind = convert::kind(dirent.r#type as u8);
        if reply.add(INodeNo(dirent.ino), dirent.off, kind, name) {
            break;
        }
    }
    reply.ok();
}

fn list_plus(mut reply: ReplyDirectoryPlus, mut rest: &[u8]) {
    while let Ok((out, after)) = EntryOut::read_from_prefix(rest) {
        rest = after;
        let Some((dirent, name)) = entry(&mut rest) else { break };
        let valid = Duration::new(out.attr_valid, out.attr_valid_nsec);
        let known = Entry {
            nodeid: if out.nodeid == 0 { dirent.ino } else { out.nodeid },
            generation: out.generation,
            attr: Attr::from(out.attr),
            ..Entry::default()
        };
        let (attr, generation) = convert::entry(&known);
        if reply.add(INodeNo(dirent.ino), dirent.off, name, &valid, &attr, generation) {
            break;
        }
    }
    reply.ok();
}
