//! `inflight mkfs --from`: a directory of this machine, or an archive, becomes the contents of an image, without a mount.

mod tar;

use crate::image::mkfs::ROOT;
use crate::image::tables::Time;
use crate::mounted;
use crate::ops::{Caller, Fs, Make, SetAttr, SetTime, WriteArgs};
use crate::options::{Atime, Options};
use anyhow::Context as _;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// Bytes that are copied at a time.
const STEP: u64 = 1 << 20;

/// How data are written here.
const WRITE: WriteArgs = WriteArgs {
    ino: 0,
    offset: 0,
    direct: false,
    append: false,
    cached: false,
    kill_suidgid: false,
};

/// Copies what is in `from`, a directory, a tar archive or `-`, into the image: owners, modes, times of change and access, extended attributes, ACLs, hard links,
/// holes, and nodes of every kind. The image itself is left out if it lies there.
///
/// # Errors
/// What cannot be read, or does not fit, with its path.
pub fn import(image: &Path, from: &Path) -> anyhow::Result<()> {
    let skipped = std::fs::metadata(image).map(|meta| (meta.dev(), meta.ino()))?;
    let options = Options { threads: 1, slabs: 1, atime: Atime::Never, ..Options::default() };
    let fs = mounted::open(image, &options)?;
    let mut import = Import { fs: &fs, skipped, links: HashMap::new() };
    let name = || from.display().to_string();
    let copied = if from.as_os_str() == "-" {
        tar::fill(&fs, std::io::stdin().lock()).context("standard input")
    } else if from.is_file() {
        let open = File::open(from).map_err(anyhow::Error::from);
        open.and_then(|file| tar::fill(&fs, BufReader::new(file))).with_context(name)
    } else {
        let meta = std::fs::metadata(from).with_context(name)?;
        import.fill(ROOT, from).and_then(|()| import.finish(ROOT, from, &meta))
    };
    let closed = mounted::close(&fs);
    copied?;
    closed.with_context(|| image.display().to_string())
}

struct Import<'a> {
    fs: &'a Fs,
    /// Device and inode number of the image.
    skipped: (u64, u64),
    /// Inodes that have several names, by what they are on this machine.
    links: HashMap<(u64, u64), u64>,
}

impl Import<'_> {
    fn fill(&mut self, dir: u64, from: &Path) -> anyhow::Result<()> {
        let name = || from.display().to_string();
        let entries: Result<Vec<_>, _> = std::fs::read_dir(from).with_context(name)?.collect();
        let mut entries = entries.with_context(name)?;
        // In the same order each time.
        entries.sort_by_key(std::fs::DirEntry::file_name);
        entries.iter().try_for_each(|entry| self.add(dir, &entry.path()))
    }

    fn add(&mut self, dir: u64, path: &Path) -> anyhow::Result<()> {
        let what = || path.display().to_string();
        let meta = std::fs::symlink_metadata(path).with_context(what)?;
        let identity = (meta.dev(), meta.ino());
        if identity == self.skipped {
            return Ok(());
        }
        let name = path.file_name().unwrap_or_default().as_bytes();
        if let Some(known) = self.links.get(&identity) {
            self.fs.link(*known, dir, name).with_context(what)?;
            self.fs.forget(*known, 1);
            return Ok(());
        }
        let kind = meta.file_type();
        let target = kind.is_symlink().then(|| std::fs::read_link(path)).transpose();
        let target = target.with_context(what)?;
        let is_node = kind.is_block_device() || kind.is_char_device();
        let make = Make {
            caller: Caller { uid: meta.uid(), gid: meta.gid(), pid: 0 },
            parent: dir,
            name,
            mode: meta.mode(),
            umask: 0,
            rdev: if is_node { encode(meta.rdev()) } else { 0 },
            target: target.as_ref().map(|target| target.as_os_str().as_bytes()),
            security: &[],
        };
        let ino = self.fs.make(&make).with_context(what)?.ino;
        if kind.is_dir() {
            self.fill(ino, path)?;
        } else if meta.nlink() > 1 {
            self.links.insert(identity, ino);
        }
        if kind.is_file() {
            self.copy(ino, path, &meta).with_context(what)?;
        }
        self.finish(ino, path, &meta)?;
        self.fs.forget(ino, 1);
        Ok(())
    }

    /// What making children, and writing, would change again comes last: defaults that are inherited, times, privileges.
    fn finish(&self, ino: u64, path: &Path, meta: &Metadata) -> anyhow::Result<()> {
        let what = || path.display().to_string();
        let owner = SetAttr { uid: Some(meta.uid()), gid: Some(meta.gid()), ..SetAttr::default() };
        self.fs.setattr(ino, &owner).with_context(what)?;
        self.attributes(ino, path)?;
        let time = |secs, nanos| Some(SetTime::At(Time { secs, nanos: nanos as u32 }));
        let rest = SetAttr {
            mode: (!meta.is_symlink()).then(|| meta.mode()),
            atime: time(meta.atime(), meta.atime_nsec()),
            mtime: time(meta.mtime(), meta.mtime_nsec()),
            ..SetAttr::default()
        };
        self.fs.setattr(ino, &rest).with_context(what)?;
        Ok(())
    }

    fn attributes(&self, ino: u64, path: &Path) -> anyhow::Result<()> {
        let names = match xattr::list(path) {
            Err(e) if e.raw_os_error() == Some(libc::ENOTSUP) => return Ok(()),
            names => names.with_context(|| path.display().to_string())?,
        };
        for name in names {
            let what = || format!("{}: attribute {}", path.display(), name.display());
            // It may have gone since it was listed.
            if let Some(value) = xattr::get(path, &name).with_context(what)? {
                let who = Caller::default();
                self.fs.setxattr(who, ino, name.as_bytes(), &value, 0).with_context(what)?;
            }
        }
        Ok(())
    }

    fn copy(&self, ino: u64, path: &Path, meta: &Metadata) -> anyhow::Result<()> {
        let file = File::open(path)?;
        let mut buffer = vec![0; STEP as usize];
        let mut at = 0;
        while let Some((from, to)) = data(&file, at, meta.len())? {
            at = from;
            while at < to {
                let part = &mut buffer[..(to - at).min(STEP) as usize];
                file.read_exact_at(part, at).context("it changed while it was read")?;
                self.fs.write(&WriteArgs { ino, offset: at, ..WRITE }, part)?;
                at += part.len() as u64;
            }
        }
        self.fs.setattr(ino, &SetAttr { size: Some(meta.len()), ..SetAttr::default() })?;
        Ok(())
    }
}

/// The next range at or after `at` that is no hole.
fn data(file: &File, at: u64, len: u64) -> anyhow::Result<Option<(u64, u64)>> {
    if at >= len {
        return Ok(None);
    }
    match lseek(file, at as i64, Whence::SeekData) {
        Ok(from) => {
            let to = lseek(file, from, Whence::SeekHole)? as u64;
            Ok(Some((from as u64, to.min(len))).filter(|(from, _)| *from < len))
        }
        Err(Errno::ENXIO) => Ok(None),
        // Where nobody knows of holes, all is data.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Some((at, len))),
        Err(e) => Err(e.into()),
    }
}

/// A device number in the kernel's 32-bit form (new_encode_dev of linux/kdev_t.h).
fn encode(rdev: u64) -> u32 {
    let (major, minor) = (nix::sys::stat::major(rdev) as u32, nix::sys::stat::minor(rdev) as u32);
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}
