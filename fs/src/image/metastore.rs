//! The byte range of the metadata database inside the image.
//!
//! redb sees one growing file. Here it is a list of chunks, backed in logical order: bytes beyond
//! the last chunk read as zeros and cost nothing until they are written. The chunk list and the
//! logical length live in the superblock, which is rewritten before a flush reports success, so
//! no commit ever depends on a chunk that a crash would forget.

use crate::image::BLOCK;
use crate::image::device::Device;
use crate::image::superblock::{CHUNKS_MAX, Chunk, STATE_MOUNTED, Superblock};
use parking_lot::{Mutex, RwLock};
use std::io;
use std::sync::{Arc, OnceLock};

/// Smallest growth step, in blocks (1 MiB), while space is plentiful.
const GROW_BLOCKS: u64 = 256;
/// Smallest growth step that is still useful when space is short, in blocks (64 KiB).
const GROW_BLOCKS_MIN: u64 = 16;

/// Finds free blocks for the metadata area: at most the first number, at least the second.
pub type Grow = dyn Fn(u64, u64) -> Option<Chunk> + Send + Sync;

/// The metadata area and the superblock that describes it.
pub struct MetaStore {
    device: Arc<Device>,
    superblock: RwLock<Superblock>,
    /// Serialises growth, so two writers never back the same range twice.
    growing: Mutex<()>,
    /// Set once the allocator is loaded, which itself is read from this store.
    grow: OnceLock<Box<Grow>>,
    /// The superblock in memory differs from the disk.
    unsaved: std::sync::atomic::AtomicBool,
}

impl std::fmt::Debug for MetaStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetaStore").field("superblock", &*self.superblock.read()).finish()
    }
}

use std::sync::atomic::Ordering::{AcqRel, Release};

impl MetaStore {
    /// A store over `device` as `superblock` describes it.
    pub fn new(device: Arc<Device>, superblock: Superblock) -> MetaStore {
        MetaStore {
            device,
            superblock: RwLock::new(superblock),
            growing: Mutex::new(()),
            grow: OnceLock::new(),
            unsaved: false.into(),
        }
    }

    /// Hands over the allocator. Before this, the area cannot grow.
    pub fn set_grow(&self, grow: Box<Grow>) {
        if self.grow.set(grow).is_err() {
            unreachable!("the allocator is handed over once, by the mount");
        }
    }

    /// A copy of the superblock.
    pub fn superblock(&self) -> Superblock {
        self.superblock.read().clone()
    }

    /// Changes the superblock and writes both copies before it returns.
    pub fn update(&self, change: impl FnOnce(&mut Superblock)) -> io::Result<()> {
        change(&mut self.superblock.write());
        self.unsaved.store(true, Release);
        self.save()
    }

    /// Marks the image as mounted for writing, or as cleanly unmounted.
    pub fn set_mounted(&self, mounted: bool) -> io::Result<()> {
        self.update(|sb| sb.state = if mounted { STATE_MOUNTED } else { 0 })
    }

    fn save(&self) -> io::Result<()> {
        if !self.unsaved.swap(false, AcqRel) {
            return Ok(());
        }
        let result = self.write_copies();
        if result.is_err() {
            self.unsaved.store(true, Release);
        }
        result
    }

    fn write_copies(&self) -> io::Result<()> {
        let mut sb = self.superblock.write();
        sb.sequence += 1;
        let bytes = sb.encode();
        let second = (sb.total_blocks - 1) * BLOCK;
        drop(sb);
        self.device.write(0, &bytes)?;
        self.device.sync()?;
        self.device.write(second, &bytes)?;
        self.device.sync()
    }

    /// Calls `f(image offset, range of the caller's buffer)` for the backed part of a logical
    /// range, and returns how many bytes of it are backed.
    fn for_each_piece(
        &self,
        offset: u64,
        len: u64,
        mut f: impl FnMut(u64, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<u64> {
        let sb = self.superblock.read();
        let (mut logical, mut done) = (0, 0);
        for chunk in &sb.chunks {
            let bytes = chunk.blocks * BLOCK;
            let (from, to) = ((offset + done).max(logical), (offset + len).min(logical + bytes));
            if from < to {
                let image = chunk.start * BLOCK + (from - logical);
                f(image, (from - offset) as usize..(to - offset) as usize)?;
                done = to - offset;
            }
            logical += bytes;
        }
        Ok(done)
    }

    /// Backs the area up to logical byte `end`.
    fn back(&self, end: u64) -> io::Result<()> {
        let _one = self.growing.lock();
        while self.superblock.read().backed_bytes() < end {
            let missing = (end - self.superblock.read().backed_bytes()).div_ceil(BLOCK);
            let chunk = self
                .grow
                .get()
                .and_then(|grow| grow(missing.max(GROW_BLOCKS), missing.min(GROW_BLOCKS_MIN)))
                .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
            self.append(chunk)?;
        }
        Ok(())
    }

    /// Zeroes the chunks that the area begins with, for mkfs.
    pub fn clear(&self) -> io::Result<()> {
        let chunks = self.superblock.read().chunks.clone();
        chunks.iter().try_for_each(|c| self.zero(c.start * BLOCK, (c.blocks * BLOCK) as usize))
    }

    fn zero(&self, mut image: u64, mut len: usize) -> io::Result<()> {
        let zeros = vec![0u8; len.min(1 << 20)];
        while len > 0 {
            let n = len.min(zeros.len());
            self.device.write(image, &zeros[..n])?;
            (image, len) = (image + n as u64, len - n);
        }
        Ok(())
    }

    fn append(&self, chunk: Chunk) -> io::Result<()> {
        // A fresh chunk must read as zeros: redb relies on it, and the blocks had other owners.
        self.zero(chunk.start * BLOCK, (chunk.blocks * BLOCK) as usize)?;
        let mut sb = self.superblock.write();
        let full = sb.chunks.len() == CHUNKS_MAX;
        match sb.chunks.last_mut() {
            Some(last) if last.start + last.blocks == chunk.start => last.blocks += chunk.blocks,
            _ if full => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            _ => sb.chunks.push(chunk),
        }
        self.unsaved.store(true, Release);
        Ok(())
    }
}

/// The handle that redb owns; the mount keeps another one to the same store.
#[derive(Debug)]
pub struct Backend(pub Arc<MetaStore>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.superblock.read().metadata_bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let store = &self.0;
        let done = store.for_each_piece(offset, out.len() as u64, |image, range| {
            store.device.read(image, &mut out[range])
        })?;
        out[done as usize..].fill(0);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let store = &self.0;
        let old = std::mem::replace(&mut store.superblock.write().metadata_bytes, len);
        if old != len {
            store.unsaved.store(true, Release);
        }
        // A later growth must find zeros where an earlier, longer area had data.
        if len < old {
            store.for_each_piece(len, old - len, |image, range| store.zero(image, range.len()))?;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.save()?;
        self.0.device.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let store = &self.0;
        store.back(offset + data.len() as u64)?;
        store.for_each_piece(offset, data.len() as u64, |image, range| {
            store.device.write(image, &data[range])
        })?;
        Ok(())
    }
}
