//! The operations: one function each, plain Rust types in, `Result<_, Errno>` out.
//!
//! Nothing here knows FUSE messages, so every transport uses the same functions. Permissions are
//! the kernel's business (`default_permissions`); what the kernel does not know of (immutable and
//! append-only files, ACL inheritance) is decided here.

mod access_time;
pub mod acl;
mod attributes;
mod control;
mod copy_range;
mod create;
mod directory;
pub mod flights;
mod frozen;
mod namespace;
pub mod overwrite;
mod privileges;
pub mod read;
mod shortage;
pub mod space;
pub mod stats;
mod sync;
pub mod ways;
mod write;
mod xattr;

pub use attributes::{SetAttr, SetTime};
pub use control::{Control, IoctlReply, RESIZE_FS};
pub use create::{Make, Unnamed};
pub use write::{WriteArgs, Written};
pub use xattr::STAT;

use crate::data::ImageIo;
use crate::errno::Errno;
use crate::image::tables::Attr;
use crate::options::Options;
use crate::volume::Volume;
use crate::volume::inode::Inode;
use frozen::check_unfrozen;
use shortage::Shortage;
use stats::Stats;
use std::sync::Arc;

/// What an operation answers.
pub type Answer<T> = std::result::Result<T, Errno>;

/// The filesystem as the transports see it.
pub struct Fs {
    volume: Volume,
    io: ImageIo,
    options: Options,
    stats: Stats,
    shortage: Shortage,
    asks_opens: bool,
    dirsync: bool,
}

/// Who asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process; 0 when the kernel asks for itself.
    pub pid: u32,
}

/// An inode as a reply names it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Inode number.
    pub ino: u64,
    /// Attributes, ready to be shown.
    pub attr: Attr,
}

/// FS_IMMUTABLE_FL of ioctl_iflags(2).
pub const IMMUTABLE: u32 = 0x10;
/// FS_APPEND_FL of ioctl_iflags(2).
pub const APPEND: u32 = 0x20;
/// FS_DIRSYNC_FL of ioctl_iflags(2).
const DIRSYNC: u32 = 0x1_0000;
/// FS_NOATIME_FL of ioctl_iflags(2).
pub const NOATIME: u32 = 0x80;

impl Fs {
    /// Operations over `volume` with data paths `io`.
    pub fn new(volume: Volume, io: ImageIo, options: Options) -> Fs {
        // With nothing to refuse, the kernel need not ask.
        let frozen = volume.has_frozen().unwrap_or(true);
        let asks_opens = options.direct_io || options.open_messages || frozen;
        let dirsync = options.dirsync();
        let (stats, shortage) = (Stats::default(), Shortage::default());
        Fs { volume, io, options, stats, shortage, asks_opens, dirsync }
    }

    /// The layer below.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The data paths to the image.
    pub fn io(&self) -> &ImageIo {
        &self.io
    }

    /// How it was mounted.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What it has done.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    fn inode(&self, ino: u64) -> Answer<Arc<Inode>> {
        Ok(self.volume.inode(ino)?)
    }

    fn entry(&self, inode: &Inode) -> Entry {
        Entry { ino: inode.ino, attr: shown(inode.attr()) }
    }

    /// As [`Fs::entry`], for a reply that gives the kernel a reference.
    fn known_entry(&self, inode: &Inode) -> Entry {
        self.volume.remember(inode.ino);
        self.entry(inode)
    }
}

/// Attributes as stat(2) shows them: a directory's size is what its names take, not their number.
fn shown(mut attr: Attr) -> Attr {
    if attr.is_dir() {
        attr.size = (attr.size * 32).next_multiple_of(4096).max(4096);
    }
    attr
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::mkfs::{MkfsOptions, mkfs};
    use std::path::Path;

    /// The operations over a new image of 32 MiB.
    pub fn open(image: &Path) -> Fs {
        mkfs(image, &MkfsOptions { size: Some(32 << 20), ..Default::default() }).expect("mkfs");
        let options = Options { slabs: 1, ..Options::default() };
        crate::mounted::open(image, &options).expect("an image")
    }
}
