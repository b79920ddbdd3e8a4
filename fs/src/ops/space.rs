//! statfs, fallocate, lseek, FITRIM.

use crate::errno::Errno;
use crate::image::BLOCK;
use crate::image::pins::Run;
use crate::image::store::Recovery;
use crate::image::tables::INODES_USED;
use crate::ops::{Answer, Caller, Fs, IMMUTABLE, check_unfrozen};
use crate::volume::{Fallocate, NAME_MAX};
use std::ops::Range;

/// What statfs(2) answers, sizes in blocks of 4096 bytes.
#[derive(Clone, Copy, Debug)]
pub struct StatFs {
    /// All blocks.
    pub blocks: u64,
    /// Free ones.
    pub free: u64,
    /// Free ones that file data may use.
    pub available: u64,
    /// Inodes: those in use and as many as there could still be.
    pub files: u64,
    /// Inodes that could still be made.
    pub files_free: u64,
    /// Longest name.
    pub name_max: u32,
}

impl Fs {
    /// Numbers about the whole filesystem.
    pub fn statfs(&self) -> Answer<StatFs> {
        let usage = self.volume.store().space().usage();
        let used = self.volume.store().read(|view| view.counter(INODES_USED))?;
        // An inode and its name take about 256 bytes of the metadata area.
        let files_free = self.volume.store().room() * (BLOCK / 256);
        Ok(StatFs {
            blocks: usage.total,
            free: usage.free,
            // What waits for a commit gets one as soon as a write needs it.
            available: (usage.available + usage.waiting).min(usage.free),
            files: used + files_free,
            files_free,
            name_max: NAME_MAX as u32,
        })
    }

    /// fallocate(2) with its FALLOC_FL_* mode; true when the file lost set-user-ID or set-group-ID
    /// bits, which only root may keep.
    ///
    /// # Errors
    /// EOPNOTSUPP for modes that this filesystem does not have.
    pub fn fallocate(
        &self,
        caller: Caller,
        ino: u64,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Answer<bool> {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let what = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Fallocate::Allocate { keep_size },
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => Fallocate::Punch,
            libc::FALLOC_FL_ZERO_RANGE => Fallocate::Zero { keep_size },
            _ => return Err(Errno::EOPNOTSUPP),
        };
        let inode = self.inode(ino)?;
        let attr = inode.attr();
        match attr.mode & libc::S_IFMT {
            libc::S_IFREG => {}
            libc::S_IFDIR => return Err(Errno::EISDIR),
            _ => return Err(Errno::ENODEV),
        }
        if what == (Fallocate::Allocate { keep_size }) {
            if attr.flags & IMMUTABLE != 0 {
                return Err(Errno::EPERM);
            }
        } else {
            check_unfrozen(&attr)?;
        }
        self.volume.fallocate(&inode, what, offset, len)?;
        self.drop_privileges_by(caller, &inode)
    }

    /// The hole that the answer to lseek(2) depends on: a kernel that caches writes may hold data for it that it has not
    /// sent yet. `None` when the answer depends on none.
    pub fn unsure_hole(&self, ino: u64, offset: i64, whence: i32) -> Answer<Option<Range<u64>>> {
        let inode = self.inode(ino)?;
        let Ok(offset) = u64::try_from(offset) else { return Ok(None) };
        let hole = self.volume.hole_after(&inode, offset)?;
        let depends = whence == libc::SEEK_HOLE || hole.start == offset;
        Ok(Some(hole).filter(|_| depends))
    }

    /// Has the hole that the answer to lseek(2) depends on written back with `write_back`, as often as that
    /// moves it.
    pub fn settle_hole(
        &self,
        ino: u64,
        offset: i64,
        whence: i32,
        mut write_back: impl FnMut(&Range<u64>),
    ) -> Answer<()> {
        let mut before = None;
        loop {
            let hole = self.unsure_hole(ino, offset, whence)?;
            let Some(range) = hole.clone().filter(|_| hole != before) else { return Ok(()) };
            write_back(&range);
            before = hole;
        }
    }

    /// SEEK_DATA and SEEK_HOLE of lseek(2).
    pub fn lseek(&self, ino: u64, offset: i64, whence: i32) -> Answer<u64> {
        let inode = self.inode(ino)?;
        let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        match whence {
            libc::SEEK_DATA => Ok(self.volume.seek(&inode, offset, true)?),
            libc::SEEK_HOLE => Ok(self.volume.seek(&inode, offset, false)?),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Gives free space of at least `min_len` bytes in `[start, start + len)` back to whatever
    /// holds the image; returns the bytes given back.
    pub fn trim(&self, start: u64, len: u64, min_len: u64) -> Answer<u64> {
        let store = self.volume.store();
        store.check_writable()?;
        // The bounds of ext4 (ext4_trim_fs in fs/ext4/mballoc.c).
        let total = store.space().usage().total * BLOCK;
        if start >= total || len < BLOCK || min_len > total {
            return Err(Errno::EINVAL);
        }
        // What was freed a moment ago is only free after a commit.
        self.volume.commit_if_changed(Recovery::Walk)?;
        let (from, to) = (start.div_ceil(BLOCK), start.saturating_add(len) / BLOCK);
        let min = min_len.div_ceil(BLOCK);
        let (mut at, mut trimmed) = (from, 0);
        while let Some(Run { start, blocks }) = store.space().take_free_run(at, to, min) {
            let discarded = store.disk().discard(start * BLOCK, blocks * BLOCK);
            store.space().unallocate(Run { start, blocks });
            discarded.map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
            (at, trimmed) = (start + blocks, trimmed + blocks * BLOCK);
        }
        Ok(trimmed)
    }
}
