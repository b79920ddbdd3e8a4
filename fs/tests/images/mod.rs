//! Images for tests, made without mounting anything.
#![allow(dead_code)] // Each test binary uses a part of it.

use inflight::disk::FileDisk;
use inflight::fsck::{self, FsckError, Options as FsckOptions, Report};
use inflight::image::metastore::MetaStore;
use inflight::image::mkfs::{MkfsOptions, ROOT, mkfs};
use inflight::image::open::{self, Access, Locked};
use inflight::image::probe;
use inflight::image::store::open_database;
use inflight::image::superblock::Superblock;
use inflight::mounted;
use inflight::ops::read::{Body, ReadArgs};
use inflight::ops::{Answer, Caller, Fs, Make, SetAttr, WriteArgs};
use inflight::options::{Options, ReadMode};
use redb::{TableDefinition, WriteTransaction};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const INODES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("inodes");
pub const NAMES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("names");
pub const EXTENTS: TableDefinition<'_, (u64, u64), (u64, u64)> = TableDefinition::new("extents");
pub const TARGETS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("targets");
pub const XATTRS: TableDefinition<'_, (u64, &[u8]), &[u8]> = TableDefinition::new("xattrs");
pub const ORPHANS: TableDefinition<'_, u64, ()> = TableDefinition::new("orphans");
pub const GROUPS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("groups");
pub const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

const SIZE: u64 = 24 << 20;

/// In memory where that can be had: thousands of flushes take minutes on a disk.
fn directory() -> tempfile::TempDir {
    let fast = tempfile::tempdir_in("/dev/shm");
    fast.or_else(|_| tempfile::tempdir()).expect("temporary directory")
}

/// An image in a temporary directory.
pub struct Image {
    dir: tempfile::TempDir,
}

impl Image {
    /// An empty filesystem.
    pub fn empty() -> Image {
        let image = Image { dir: directory() };
        let options = MkfsOptions { size: Some(SIZE), ..MkfsOptions::default() };
        mkfs(&image.path(), &options).expect("mkfs");
        image
    }

    /// As [`Image::with_content`], the same bytes each time: the clock of this process stops for it.
    pub fn reproducible() -> Image {
        inflight::image::tables::stopped_clock::stop(1_700_000_000);
        let image = Image { dir: directory() };
        let identity = Some([[0x11; 16], [0x22; 16]]);
        let options = MkfsOptions { size: Some(SIZE), identity, ..MkfsOptions::default() };
        mkfs(&image.path(), &options).expect("mkfs");
        let fs = image.open(false).expect("open");
        fill(&fs).expect("fill");
        mounted::close(&fs).expect("close");
        image
    }

    /// A copy of `bytes`.
    pub fn of(bytes: &[u8]) -> Image {
        let image = Image { dir: directory() };
        image.restore(bytes);
        image
    }

    /// Directories, files that carry their own number in every word, links, attributes, holes.
    pub fn with_content() -> Image {
        let image = Image::empty();
        let fs = image.open(false).expect("open");
        fill(&fs).expect("fill");
        mounted::close(&fs).expect("close");
        image
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).expect("read the image")
    }

    pub fn restore(&self, bytes: &[u8]) {
        std::fs::write(self.path(), bytes).expect("write the image");
    }

    pub fn open(&self, read_only: bool) -> Result<Fs, mounted::MountError> {
        open(&self.path(), read_only)
    }

    pub fn try_fsck(&self, repair: bool) -> Result<Report, FsckError> {
        fsck::check(&self.path(), &FsckOptions { repair, progress: &|_| () })
    }

    pub fn fsck(&self, repair: bool) -> Report {
        self.try_fsck(repair).expect("fsck runs")
    }

    pub fn superblock(&self) -> Superblock {
        let device = FileDisk::open(&self.path(), false).expect("open");
        probe::superblock(&device, false).expect("superblock")
    }

    /// Changes rows behind the filesystem's back.
    pub fn edit(&self, change: impl FnOnce(&WriteTransaction)) {
        let Locked { disk, lock: _lock } = open::locked(&self.path(), Access::Write).expect("free");
        let sb = probe::superblock(&*disk, true).expect("superblock");
        let db = open_database(&Arc::new(MetaStore::new(disk, sb))).expect("database");
        let mut txn = db.begin_write().expect("transaction");
        change(&txn);
        txn.set_quick_repair(true);
        txn.commit().expect("commit");
    }
}

pub fn open(path: &Path, read_only: bool) -> Result<Fs, mounted::MountError> {
    let options =
        Options { read_only, read: ReadMode::Copy, threads: 1, slabs: 1, ..Options::default() };
    mounted::open(path, &options)
}

/// What a file holds: its number and the offset, over and over.
pub fn stamped(id: u64, offset: u64, len: usize) -> Vec<u8> {
    let words = (offset / 16)..(offset + len as u64).div_ceil(16);
    let all: Vec<u8> =
        words.flat_map(|w| [id.to_le_bytes(), (w * 16).to_le_bytes()].concat()).collect();
    let skip = (offset % 16) as usize;
    all[skip..skip + len].to_vec()
}

/// The numbers of other files that `bytes`, read at `offset` of file `id`, carry.
pub fn foreign(id: u64, offset: u64, bytes: &[u8]) -> Option<u64> {
    bytes.chunks_exact(16).enumerate().find_map(|(i, word)| {
        let (who, at) = word.split_at(8);
        let number = |b: &[u8]| u64::from_le_bytes(b.try_into().expect("8 bytes"));
        let (who, at) = (number(who), number(at));
        // Zeros are a hole, or begin in the middle of a word at the old end of the file.
        let own = [0, id].contains(&who) && [0, offset + 16 * i as u64].contains(&at);
        (!own).then_some(who)
    })
}

pub fn make(fs: &Fs, parent: u64, name: &str, mode: u32, target: Option<&str>) -> Answer<u64> {
    let make = Make {
        caller: Caller::default(),
        parent,
        name: name.as_bytes(),
        mode,
        umask: 0,
        rdev: 0,
        target: target.map(str::as_bytes),
        security: &[],
    };
    let ino = fs.make(&make)?.ino;
    fs.forget(ino, 1);
    Ok(ino)
}

/// A file whose stamp is its inode number.
pub fn file(fs: &Fs, parent: u64, name: &str, len: usize) -> Answer<u64> {
    let ino = make(fs, parent, name, libc::S_IFREG | 0o644, None)?;
    write(fs, ino, 0, len)?;
    Ok(ino)
}

pub fn write(fs: &Fs, ino: u64, offset: u64, len: usize) -> Answer<()> {
    let args =
        WriteArgs { ino, offset, direct: false, append: false, cached: false, kill_suidgid: false };
    fs.write(&args, &stamped(ino, offset, len)).map(drop)
}

pub fn read(fs: &Fs, ino: u64, offset: u64, len: usize) -> Answer<Vec<u8>> {
    let args = ReadArgs { ino, offset, len, direct: false, splice: false };
    match fs.read_prepare(&args, None)?.apply(fs)?.pipe(fs)?.body {
        Body::Bytes(buf) => Ok(buf.as_slice().to_vec()),
        Body::Pipe(_) => unreachable!("read=copy never uses a pipe"),
    }
}

fn fill(fs: &Fs) -> Answer<()> {
    for d in 0..6 {
        let dir = make(fs, ROOT, &format!("dir{d}"), libc::S_IFDIR | 0o755, None)?;
        let sub = make(fs, dir, "sub", libc::S_IFDIR | 0o700, None)?;
        for i in 0..40 {
            let ino = file(fs, dir, &format!("file{i}"), 1000 + 4096 * (i % 9))?;
            if i % 5 == 0 {
                fs.link(ino, sub, format!("link{i}").as_bytes())?;
                fs.forget(ino, 1);
            }
            if i % 7 == 0 {
                let about = format!("file {ino}");
                fs.setxattr(Caller::default(), ino, b"user.about", about.as_bytes(), 0)?;
            }
        }
        make(fs, dir, "symlink", libc::S_IFLNK | 0o777, Some("file1"))?;
        make(fs, dir, "fifo", libc::S_IFIFO | 0o600, None)?;
        let sparse = file(fs, sub, "sparse", 5000)?;
        write(fs, sparse, 1 << 20, 70_000)?;
        fs.setattr(sparse, &SetAttr { size: Some(3 << 20), ..SetAttr::default() })?;
        fs.fallocate(inflight::ops::Caller::default(), sparse, 0, 2 << 20, 100_000)?;
        // Freed blocks that hold what deleted files had.
        file(fs, dir, "gone", 50_000)?;
        fs.unlink(dir, b"gone")?;
    }
    Ok(())
}

/// Inode numbers by path, as far as the filesystem tells; at most some thousand.
pub fn walk(fs: &Fs) -> HashMap<String, u64> {
    let (mut found, mut todo) = (HashMap::new(), vec![(String::new(), ROOT)]);
    let mut seen = HashSet::from([ROOT]);
    while let Some((path, dir)) = todo.pop() {
        let mut entries = Vec::new();
        let listed = fs.readdir(dir, 0, |entry| {
            entries.push(entry.clone());
            entries.len() > 5000
        });
        if listed.is_err() || path.len() > 4096 || found.len() > 5000 {
            continue;
        }
        for entry in entries.into_iter().filter(|e| e.name != b"." && e.name != b"..") {
            let path = format!("{path}/{}", entry.name.escape_ascii());
            if entry.kind == libc::DT_DIR && seen.insert(entry.ino) {
                todo.push((path.clone(), entry.ino));
            }
            found.insert(path, entry.ino);
        }
    }
    found
}
