//! Plays operations on the real thing as the kernel would: numbers, not paths, and references.

use crate::reference::op::{self, Op, Path};
use inflight::data::ImageIo;
use inflight::disk::Disk;
use inflight::errno::Errno;
use inflight::image::mkfs::ROOT;
use inflight::image::open;
use inflight::image::store::Recovery;
use inflight::ops::read::{Body, ReadArgs};
use inflight::ops::{Caller, Fs, Make, SetAttr, Unnamed, WriteArgs};
use inflight::options::Options;
use inflight::volume::Volume;
use inflight_dio::{Pool, PoolConfig};
use inflight_splice::PipePool;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Buffers and pipes, made once for any number of filesystems.
#[derive(Clone)]
pub struct Data {
    pool: Pool,
    pipes: PipePool,
}

impl Default for Data {
    fn default() -> Data {
        let config = PoolConfig { slabs: 0, ..PoolConfig::default() };
        Data {
            pool: Pool::new(config).expect("a pool"),
            pipes: PipePool::new(1 << 16, 1).expect("a pipe"),
        }
    }
}

/// A filesystem in use.
pub struct Player {
    pub fs: Fs,
    held: Option<u64>,
    /// The kernel's page cache, as far as it was stored to.
    dirty: BTreeMap<(u64, u64), Vec<u8>>,
    serial: u32,
}

type Result<T> = std::result::Result<T, Errno>;

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 1 };

impl Player {
    /// Opens the filesystem on `disk` as a mount does.
    pub fn open(disk: Arc<dyn Disk>, data: &Data) -> std::result::Result<Player, String> {
        let store = open::open_on(disk.clone(), None).map_err(|e| e.to_string())?;
        let volume = Volume::open(store).map_err(|e| e.to_string())?;
        let io = ImageIo::new(disk, data.pool.clone(), data.pipes.clone());
        let fs = Fs::new(volume, io.map_err(|e| e.to_string())?, Options::default());
        Ok(Player { fs, held: None, dirty: BTreeMap::new(), serial: 0 })
    }

    /// From now on freed blocks are discarded with each commit.
    pub fn discard_freed(&self) {
        self.fs.volume().store().discard_freed();
    }

    /// As `open`, going on where another player stopped after `serial` operations.
    pub fn resume(mut self, serial: u32) -> Player {
        self.serial = serial;
        self
    }

    /// Does `op`.
    pub fn play(&mut self, op: &Op) -> Result<()> {
        self.serial += 1;
        let fs = &self.fs;
        match *op {
            Op::Create(path) => self.make(path, libc::S_IFREG | 0o644, None),
            Op::Mkdir(path) => self.make(path, libc::S_IFDIR | 0o755, None),
            Op::Symlink(path) => self.make(path, libc::S_IFLNK | 0o777, Some(op::target(path))),
            Op::Tmpfile => {
                let make =
                    Unnamed { caller: CALLER, parent: ROOT, mode: 0o644, umask: 0, security: &[] };
                let ino = fs.tmpfile(&make)?.ino;
                self.close();
                self.held = Some(ino);
                Ok(())
            }
            Op::Link(from, to) => {
                let ino = self.find(from)?;
                let (dir, name) = self.place(to)?;
                fs.link(ino, dir, name.as_bytes())?;
                fs.forget(ino, 1);
                Ok(())
            }
            Op::Rename(from, to, how) => {
                let ((old, name), (new, newname)) = (self.place(from)?, self.place(to)?);
                let (from, to) = ((old, name.as_bytes()), (new, newname.as_bytes()));
                fs.rename(CALLER, from, to, how.flags())
            }
            Op::Unlink(path) => {
                let (dir, name) = self.place(path)?;
                fs.unlink(dir, name.as_bytes())
            }
            Op::Rmdir(path) => {
                let (dir, name) = self.place(path)?;
                fs.rmdir(dir, name.as_bytes())
            }
            Op::Write(path, at, len) => self.write(path, at, len, false),
            Op::WriteDirect(path, at, len) => self.write(path, at, len, true),
            Op::Store(path, at, len) => self.store(path, at, len),
            Op::WriteBack(path, page) => self.write_back(path, page),
            Op::Truncate(path, size) => {
                let set = SetAttr { size: Some(size), ..SetAttr::default() };
                fs.setattr(self.find(path)?, &set).map(drop)
            }
            Op::Fallocate(path, how, at, len) => {
                fs.fallocate(CALLER, self.find(path)?, how.mode(), at, len).map(drop)
            }
            Op::CopyRange(from, at, to, to_at, len) => self.copy((from, at), (to, to_at), len),
            Op::SetXattr(path, name, len) => {
                let value: Vec<u8> = (0..len as u64).map(|i| op::stamp(self.serial, i)).collect();
                fs.setxattr(CALLER, self.find(path)?, name.as_bytes(), &value, 0)
            }
            Op::RemoveXattr(path, name) => fs.removexattr(self.find(path)?, name.as_bytes()),
            Op::Chmod(path, mode) => {
                let ino = self.find(path)?;
                if self.kind(ino)? == libc::S_IFLNK {
                    return Err(Errno::EINVAL);
                }
                let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
                fs.setattr(ino, &set).map(drop)
            }
            Op::Open(path) => {
                let ino = self.find(path)?;
                if self.kind(ino)? != libc::S_IFREG {
                    return Err(Errno::EISDIR);
                }
                fs.remember(ino);
                self.close();
                self.held = Some(ino);
                Ok(())
            }
            Op::Close => {
                self.close();
                Ok(())
            }
            Op::Fsync(path) => self.fsync(path, false),
            Op::Fdatasync(path) => self.fsync(path, true),
            Op::Sync => fs.syncfs(),
            Op::Tick => Ok(fs.volume().commit_if_changed(Recovery::Quick)?),
            Op::Trim => fs.trim(0, u64::MAX, 0).map(drop),
        }
    }

    /// Commits and closes the image, as an unmount does.
    pub fn unmount(mut self) -> Result<()> {
        self.close();
        Ok(self.fs.volume().close()?)
    }

    fn close(&mut self) {
        if let Some(ino) = self.held.take() {
            self.fs.forget(ino, 1);
        }
    }

    fn kind(&self, ino: u64) -> Result<u32> {
        Ok(self.fs.getattr(ino)?.attr.mode & libc::S_IFMT)
    }

    fn find(&self, path: Path) -> Result<u64> {
        if path == "@" {
            return self.held.ok_or(Errno::EBADF);
        }
        path.split('/').filter(|part| !part.is_empty()).try_fold(ROOT, |at, part| {
            let entry = self.fs.lookup(at, part.as_bytes())?;
            self.fs.forget(entry.ino, 1);
            Ok(entry.ino)
        })
    }

    fn place(&self, path: Path) -> Result<(u64, &'static str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.find(dir)?;
        if self.kind(dir)? == libc::S_IFDIR { Ok((dir, name)) } else { Err(Errno::ENOTDIR) }
    }

    fn make(&self, path: Path, mode: u32, target: Option<String>) -> Result<()> {
        let (parent, name) = self.place(path)?;
        let entry = self.fs.make(&Make {
            caller: CALLER,
            parent,
            name: name.as_bytes(),
            mode,
            umask: 0,
            rdev: 0,
            target: target.as_deref().map(str::as_bytes),
            security: &[],
        })?;
        self.fs.forget(entry.ino, 1);
        Ok(())
    }

    fn write(&self, path: Path, at: u64, len: u64, direct: bool) -> Result<()> {
        let ino = self.find(path)?;
        let bytes: Vec<u8> = (at..at + len).map(|i| op::stamp(self.serial, i)).collect();
        let flags = (false, false, false);
        let (append, cached, kill_suidgid) = flags;
        let args = WriteArgs { ino, offset: at, direct, append, cached, kill_suidgid };
        let written = self.fs.write(&args, &bytes)?;
        assert_eq!(written.bytes, bytes.len(), "a write is whole or an error");
        Ok(())
    }

    fn store(&mut self, path: Path, at: u64, len: u64) -> Result<()> {
        let ino = self.find(path)?;
        let size = self.size(ino)?;
        let mut pages = Vec::new();
        for page in op::pages(at, len) {
            let old = match self.dirty.get(&(ino, page)) {
                Some(page) => page.clone(),
                None => self.read(ino, page * 4096, 4096)?,
            };
            let new = op::stored(self.serial, old, page, (at, len), size).ok_or(Errno::EFAULT)?;
            pages.push(((ino, page), new));
        }
        self.dirty.extend(pages);
        Ok(())
    }

    /// As the kernel does: whole pages, but nothing behind the end of the file.
    fn write_back(&mut self, path: Path, page: u64) -> Result<()> {
        let ino = self.find(path)?;
        let left = self.size(ino)?.saturating_sub(page * 4096).min(4096) as usize;
        let Some(bytes) = self.dirty.remove(&(ino, page)).filter(|_| left > 0) else {
            return Ok(());
        };
        let args = WriteArgs {
            ino,
            offset: page * 4096,
            direct: false,
            append: false,
            cached: true,
            kill_suidgid: false,
        };
        let written = self.fs.write(&args, &bytes[..left])?;
        assert_eq!(written.bytes, left, "a write is whole or an error");
        Ok(())
    }

    fn size(&self, ino: u64) -> Result<u64> {
        let attr = self.fs.getattr(ino)?.attr;
        if attr.is_file() { Ok(attr.size) } else { Err(Errno::EINVAL) }
    }

    fn read(&self, ino: u64, offset: u64, len: usize) -> Result<Vec<u8>> {
        let args = ReadArgs { ino, offset, len, direct: false, splice: false };
        match self.fs.read_prepare(&args, None)?.apply(&self.fs)?.pipe(&self.fs)?.body {
            Body::Bytes(bytes) => Ok(bytes.as_slice().to_vec()),
            Body::Pipe(_) => unreachable!("nobody asked for a pipe"),
        }
    }

    fn copy(&self, (from, at): (Path, u64), (to, to_at): (Path, u64), len: u64) -> Result<()> {
        let (from, to) = (self.find(from)?, self.find(to)?);
        let files = [from, to].into_iter().map(|ino| self.kind(ino));
        let all = files.collect::<Result<Vec<_>>>()?.iter().all(|kind| *kind == libc::S_IFREG);
        if !all || from == to {
            return Err(Errno::EINVAL);
        }
        self.fs.copy_file_range((from, at), (to, to_at), len).map(drop)
    }

    fn fsync(&self, path: Path, data_only: bool) -> Result<()> {
        let ino = self.find(path)?;
        match self.kind(ino)? {
            libc::S_IFREG => self.fs.fsync(ino, data_only),
            libc::S_IFDIR => self.fs.fsyncdir(),
            _ => Err(Errno::EINVAL),
        }
    }
}
