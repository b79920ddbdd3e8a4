//! `inflight export`: the contents of an image become a directory of this machine, without a mount.

use crate::image::tables::Attr;
use crate::mounted;
use crate::ops::Fs;
use crate::ops::read::{Body, ReadArgs};
use crate::options::{Options, ReadMode};
use crate::volume::DirEntry;
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::image::mkfs::ROOT;

/// Bytes that are copied at a time.
const STEP: u64 = 1 << 20;

/// Of what, and where to.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// File or block device; it is not written.
    image: PathBuf,
    /// A file or directory in it, from its root (all of it when absent), and the directory that it goes into, which is new or
    /// empty.
    #[arg(num_args = 1..=2, required = true, value_names = ["PATH", "DIR"])]
    what: Vec<PathBuf>,
}

pub(super) fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let (path, to) = match &args.what[..] {
        [path, to] => (path.as_path(), to),
        [to] => (Path::new("/"), to),
        _ => bail!("give a path in the image and a directory, e.g. inflight export IMAGE /etc out"),
    };
    let name = || to.display().to_string();
    match std::fs::read_dir(to) {
        Ok(mut entries) => {
            ensure!(entries.next().is_none(), "{} is not empty; choose another directory", name())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir(to).with_context(name)?;
        }
        Err(e) => return Err(e).with_context(name),
    }
    let options = Options {
        read_only: true,
        read: ReadMode::Copy,
        threads: 1,
        slabs: 1,
        ..Options::default()
    };
    let fs = mounted::open(&args.image, &options)?;
    let mut export = Export { fs: &fs, links: HashMap::new(), dirs: HashSet::new(), refused: 0 };
    let copied = export.start(path, to);
    let refused = export.refused;
    let closed = mounted::close(&fs);
    copied?;
    if refused > 0 {
        eprintln!("inflight: {refused} owners or attributes could not be set on {}", name());
    }
    closed.with_context(|| args.image.display().to_string())
}

struct Export<'a> {
    fs: &'a Fs,
    /// Where inodes with several names are already.
    links: HashMap<u64, PathBuf>,
    /// Directories so far: in a damaged image one may lead to itself.
    dirs: HashSet<u64>,
    /// What this user may not set, or the filesystem below does not keep.
    refused: u64,
}

impl Export<'_> {
    fn start(&mut self, path: &Path, to: &Path) -> anyhow::Result<()> {
        let mut ino = ROOT;
        let mut last = OsStr::new("");
        for part in path.components() {
            if let std::path::Component::Normal(name) = part {
                let entry = self.fs.lookup(ino, name.as_bytes());
                (ino, last) = (entry.with_context(|| path.display().to_string())?.ino, name);
            }
        }
        let attr = self.fs.getattr(ino)?.attr;
        if attr.is_dir() {
            self.dirs.insert(ino);
            self.fill(ino, to)?;
            return self.finish(ino, &attr, to);
        }
        self.add(ino, &to.join(last))
    }

    fn fill(&mut self, dir: u64, to: &Path) -> anyhow::Result<()> {
        let mut entries: Vec<DirEntry> = Vec::new();
        let listed = self.fs.readdir(dir, 0, |entry| {
            entries.push(entry.clone());
            false
        });
        listed.with_context(|| to.display().to_string())?;
        for DirEntry { ino, name, .. } in entries {
            if name == b"." || name == b".." {
                continue;
            }
            // Of a damaged image nothing goes where it was not sent.
            let is_name = !name.is_empty() && !name.contains(&b'/') && !name.contains(&0);
            ensure!(is_name, "{}: '{}' is no name", to.display(), name.escape_ascii());
            self.add(ino, &to.join(OsStr::from_bytes(&name)))?;
        }
        Ok(())
    }

    /// Makes one entry, which must not be there: so nothing that another one made is followed.
    fn add(&mut self, ino: u64, to: &Path) -> anyhow::Result<()> {
        let what = || to.display().to_string();
        let attr = self.fs.getattr(ino).with_context(what)?.attr;
        if let Some(first) = self.links.get(&ino) {
            return std::fs::hard_link(first, to).with_context(what);
        }
        match attr.kind() {
            libc::S_IFDIR => {
                ensure!(self.dirs.insert(ino), "{}: the directory has two names", what());
                std::fs::create_dir(to).with_context(what)?;
                self.fill(ino, to)?;
            }
            libc::S_IFLNK => {
                let target = self.fs.readlink(ino).with_context(what)?;
                std::os::unix::fs::symlink(OsStr::from_bytes(&target), to).with_context(what)?;
            }
            libc::S_IFREG => self.copy(ino, attr.size, to).with_context(what)?,
            kind => {
                let mode = Mode::from_bits_truncate(0o600);
                mknod(to, SFlag::from_bits_truncate(kind), mode, decode(attr.rdev))
                    .with_context(what)?;
            }
        }
        if !attr.is_dir() && attr.nlink > 1 {
            self.links.insert(ino, to.to_owned());
        }
        self.finish(ino, &attr, to)
    }

    fn finish(&mut self, ino: u64, attr: &Attr, to: &Path) -> anyhow::Result<()> {
        let what = || to.display().to_string();
        let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
        let owned = fchownat(AT_FDCWD, to, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW);
        self.refused += u64::from(owned.is_err());
        let names = self.fs.volume().xattr_list(ino).with_context(what)?;
        for name in names {
            let value = self.fs.getxattr(ino, &name).with_context(what)?;
            let set = xattr::set(to, OsStr::from_bytes(&name), &value);
            self.refused += u64::from(set.is_err());
        }
        if attr.kind() != libc::S_IFLNK {
            // Whoever could not give it away keeps no privileges of its owner.
            let kept = if owned.is_ok() { 0o7777 } else { 0o1777 };
            let mode = std::fs::Permissions::from_mode(attr.mode & kept);
            std::fs::set_permissions(to, mode).with_context(what)?;
        }
        let [atime, mtime] =
            [attr.atime, attr.mtime].map(|time| TimeSpec::new(time.secs, i64::from(time.nanos)));
        utimensat(AT_FDCWD, to, &atime, &mtime, UtimensatFlags::NoFollowSymlink).with_context(what)
    }

    fn copy(&self, ino: u64, size: u64, to: &Path) -> anyhow::Result<()> {
        let file = File::create_new(to)?;
        let mut at = 0;
        while at < size {
            let from = match self.fs.lseek(ino, at as i64, libc::SEEK_DATA) {
                Err(nix::errno::Errno::ENXIO) => break,
                from => from?,
            };
            let end = self.fs.lseek(ino, from as i64, libc::SEEK_HOLE)?;
            at = from;
            while at < end.min(size) {
                let len = (end.min(size) - at).min(STEP) as usize;
                let args = ReadArgs { ino, offset: at, len, direct: false, splice: false };
                let ready = self.fs.read_prepare(&args, None)?.apply(self.fs)?.pipe(self.fs)?;
                let (Body::Bytes(bytes), _plan) = ready.into_parts() else {
                    bail!("read=copy never uses a pipe");
                };
                ensure!(!bytes.is_empty(), "the file ends at {at}, not at {size}");
                file.write_all_at(bytes.as_slice(), at)?;
                at += bytes.len() as u64;
            }
        }
        Ok(file.set_len(size)?)
    }
}

/// A device number from the kernel's 32-bit form (new_decode_dev of linux/kdev_t.h).
fn decode(rdev: u32) -> u64 {
    makedev(u64::from(rdev >> 8 & 0xfff), u64::from(rdev & 0xff | rdev >> 12 & 0xf_ff00))
}
