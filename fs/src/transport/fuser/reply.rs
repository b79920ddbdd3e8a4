//! Replies: what `ops` answered, in fuser's reply objects; and read replies that fuser cannot send.

use crate::errno::Errno;
use crate::ops::read::{Body, Ready};
use crate::ops::{Answer, Entry, Written};
use crate::options::Options;
use crate::transport::fuser::convert;
use fuser::{
    Generation, INodeNo, Notifier, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite,
    ReplyXattr,
};
use inflight_splice::{ReplyChannel, SendError};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What goes to the kernel past fuser's replies. Set when the session exists, which is before the
/// first request.
pub type Kernel = Arc<OnceLock<Past>>;

/// The ways past fuser's replies.
pub struct Past {
    /// Where spliced replies go.
    pub channel: ReplyChannel,
    /// What the kernel should forget.
    pub notifier: Notifier,
}

/// How long the kernel may believe us.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Attributes.
    pub attr: Duration,
    /// Names, those that do not exist included.
    pub entry: Duration,
}

impl Timeouts {
    /// From the mount options.
    pub fn new(options: &Options) -> Timeouts {
        Timeouts { attr: options.attr_timeout, entry: options.entry_timeout }
    }
}

/// The generation of an entry, for open_by_handle_at(2).
pub fn generation(entry: &Entry) -> Generation {
    Generation(u64::from(entry.attr.generation))
}

/// Nothing, or an errno.
pub fn empty(reply: ReplyEmpty, answer: Answer<()>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(convert::errno(e)),
    }
}

/// Attributes.
pub fn attr(reply: ReplyAttr, timeouts: Timeouts, answer: Answer<Entry>) {
    match answer {
        Ok(entry) => reply.attr(&timeouts.attr, &convert::attr(&entry)),
        Err(e) => reply.error(convert::errno(e)),
    }
}

/// An entry that was made.
pub fn entry(reply: ReplyEntry, timeouts: Timeouts, answer: Answer<Entry>) {
    match answer {
        Ok(entry) => {
            let attr = convert::attr(&entry);
            reply.entry_with_ttls(&timeouts.attr, &timeouts.entry, &attr, generation(&entry));
        }
        Err(e) => reply.error(convert::errno(e)),
    }
}

/// An entry that was looked up: the kernel also remembers what is not there.
pub fn looked_up(reply: ReplyEntry, timeouts: Timeouts, answer: Answer<Entry>) {
    match answer {
        Err(Errno::ENOENT) if !timeouts.entry.is_zero() => {
            let none = convert::negative();
            reply.entry_with_ttls(&Duration::ZERO, &timeouts.entry, &none, Generation(0));
        }
        other => entry(reply, timeouts, other),
    }
}

/// A value or its size, as getxattr(2) asks with `size` 0.
pub fn xattr(reply: ReplyXattr, size: u32, answer: Answer<Vec<u8>>) {
    match answer {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(convert::errno(e)),
    }
}

/// Bytes that are at hand.
pub fn data(reply: ReplyData, answer: Answer<Vec<u8>>) {
    match answer {
        Ok(bytes) => reply.data(&bytes),
        Err(e) => reply.error(convert::errno(e)),
    }
}

/// A read: written, or spliced past fuser.
pub fn read(reply: ReplyData, kernel: &Kernel, unique: u64, answer: Answer<Ready>) {
    match answer {
        Err(e) => reply.error(convert::errno(e)),
        Ok(ready) => match ready.body {
            Body::Bytes(ref buf) => reply.data(buf.as_slice()),
            Body::Pipe(filled) => {
                let Some(past) = kernel.get() else { return reply.error(fuser::Errno::EIO) };
                let header = out_header(unique, filled.len());
                match past.channel.send(&header, filled) {
                    // The reply is sent, or nobody waits for it; fuser would send a second one.
                    Ok(()) | Err(SendError::Gone | SendError::Disconnected) => {
                        std::mem::forget(reply);
                    }
                    Err(e) => {
                        tracing::error!("spliced reply: {e}");
                        reply.error(fuser::Errno::EIO);
                    }
                }
            }
        },
    }
}

/// A write. What the kernel cannot know makes it ask again: a mode without its privileges, told
/// before the reply, when the writer still has the file open; and, when `cached`, the number of
/// blocks, told after it, because the notice waits for an inode that may be waiting for the reply.
pub fn written(
    reply: ReplyWrite,
    kernel: &Kernel,
    ino: INodeNo,
    cached: bool,
    answer: Answer<Written>,
) {
    let written = match answer {
        Ok(written) => written,
        Err(e) => return reply.error(convert::errno(e)),
    };
    if written.privileges && !cached {
        ask_again(kernel, ino);
    }
    reply.written(written.bytes as u32);
    if cached && (written.allocated || written.privileges) {
        ask_again(kernel, ino);
    }
}

/// Makes the kernel ask for the attributes of `ino` again.
pub fn ask_again(kernel: &Kernel, ino: INodeNo) {
    if let Some(past) = kernel.get() {
        // ENOENT: the kernel has forgotten the inode. A negative offset spares its pages.
        let _ = past.notifier.inval_inode(ino, -1, 0);
    }
}

/// Makes the kernel write the dirty pages in a range of `ino` back, and waits for it. It also forgets them: it
/// has no notice that only writes.
pub fn write_back(kernel: &Kernel, ino: INodeNo, range: Range<u64>) {
    if let Some(past) = kernel.get() {
        // A length of 0 means everything from the offset on.
        let offset = range.start.min(i64::MAX as u64) as i64;
        let len = i64::try_from(range.end - range.start).unwrap_or(0);
        // ENOENT: the kernel has forgotten the inode, so it has no pages either.
        let _ = past.notifier.inval_inode(ino, offset, len);
    }
}

/// struct fuse_out_header of linux/fuse.h: length of everything, error 0, unique.
fn out_header(unique: u64, data: usize) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&(data as u32 + 16).to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}
