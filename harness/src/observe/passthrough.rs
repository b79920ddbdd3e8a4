//! FUSE passthrough: a server of one file whose reads and writes the kernel hands to a file below (6.9).
//!
//! Source: Documentation/filesystems/fuse-passthrough.rst, fs/fuse/passthrough.c.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use fuser::{
    BackingId, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};
use parking_lot::Mutex;

use super::Seen;
use super::files;
use super::splice::{self, How};
use crate::kit::memory::PAGE;
use crate::kit::verdict::not_run;

const NAME: &str = "f";
const FILE: INodeNo = INodeNo(2);
/// The kernel asks once for each name and attribute.
const FOREVER: Duration = Duration::from_secs(3600);

/// What the test and the server know of each other.
#[derive(Debug, Default)]
struct Told {
    /// READs that came although they should not.
    reads: AtomicU64,
    /// Why a file cannot be handed over.
    refused: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Server {
    below: File,
    told: Arc<Told>,
    /// Alive as long as the mount: one for the inode, whoever opens it.
    backing: Mutex<Option<BackingId>>,
}

/// Splices from a file that is passed through to one in the folder; see [`splice::alias`].
///
/// # Errors
/// NOTRUN where the kernel has no passthrough, or does not let us.
pub fn alias(folder: &Path, how: How) -> anyhow::Result<Seen> {
    let below = files::file(folder, &[0x5A; 4 * PAGE])?;
    let at = tempfile::tempdir_in(folder).context("a mount point")?;
    let told = Arc::new(Told::default());
    let server = Server {
        below: OpenOptions::new().read(true).write(true).open(below.path())?,
        told: told.clone(),
        backing: Mutex::new(None),
    };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("passthrough".to_owned())];
    let session = fuser::spawn_mount(server, at.path(), &config);
    let session = session.map_err(|error| not_run(format!("mount of a FUSE server: {error}")))?;
    let seen = splice::alias(&at.path().join(NAME), how);
    let ended = session.umount_and_join();
    if let Some(reason) = told.refused.lock().take() {
        return Err(not_run(reason));
    }
    ended.context("unmount the FUSE server")?;
    let reads = told.reads.load(Ordering::Relaxed);
    if reads > 0 {
        // It answers them with an error, which is all that there is to see behind it.
        return Ok(Seen::new("served by the server", format!("{reads} READs reached it")));
    }
    let mut seen = seen?;
    seen.evidence += "; no READ reached the server";
    Ok(seen)
}

impl Server {
    fn attr(&self, ino: INodeNo) -> std::io::Result<FileAttr> {
        let below = self.below.metadata()?;
        let (kind, perm, size) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0o755, 0),
            _ => (FileType::RegularFile, 0o644, below.len()),
        };
        let time = UNIX_EPOCH;
        Ok(FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: below.uid(),
            gid: below.gid(),
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        })
    }

    fn refuse(&self, reason: String, reply: ReplyOpen) {
        self.told.refused.lock().get_or_insert(reason);
        reply.error(Errno::EOPNOTSUPP);
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_err() {
            let reason = "this kernel has no FUSE passthrough (6.9, CONFIG_FUSE_PASSTHROUGH)";
            *self.told.refused.lock() = Some(reason.to_owned());
        }
        // The file below lies on no other stacked filesystem.
        config.set_max_stack_depth(1).map_err(|_| std::io::ErrorKind::Unsupported)?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attr(FILE) {
            Ok(attr) if parent == INodeNo::ROOT && name == NAME => {
                reply.entry(&FOREVER, &attr, Generation(0));
            }
            Ok(_) => reply.error(Errno::ENOENT),
            Err(error) => reply.error(error.into()),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Ok(attr) => reply.attr(&FOREVER, &attr),
            Err(error) => reply.error(error.into()),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.told.refused.lock().is_some() {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let mut backing = self.backing.lock();
        if backing.is_none() {
            match reply.open_backing(&self.below) {
                Ok(id) => *backing = Some(id),
                Err(error) => {
                    return self.refuse(format!("FUSE_DEV_IOC_BACKING_OPEN: {error}"), reply);
                }
            }
        }
        let id = backing.as_ref().expect("just made");
        reply.opened_passthrough(FileHandle(0), FopenFlags::empty(), id);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.told.reads.fetch_add(1, Ordering::Relaxed);
        reply.error(Errno::EIO);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}
