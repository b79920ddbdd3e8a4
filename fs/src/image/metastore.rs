//! The byte range of the metadata database inside the image.
//!
//! redb sees one growing file. Here it is a list of chunks; bytes between and beyond them read as
//! zeros and cost nothing until they are written. The chunk list and the
//! logical length live in the superblock, which is rewritten before a flush reports success, so
//! no commit ever depends on a chunk that a crash would forget.
//!
//! Opening a database writes to it: a crash is repaired, flags are set. Over a device that was
//! opened for reading, all of that stays in memory and the image keeps every byte.

use crate::disk::Disk;
use crate::image::BLOCK;
use crate::image::space::{Class, Space};
use crate::image::superblock::{CHUNKS_MAX, Chunk, STATE_MOUNTED, Superblock};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock};

/// Smallest growth step, in blocks (1 MiB), while space is plentiful.
const GROW_BLOCKS: u64 = 256;
/// Smallest growth step that is still useful when space is short, in blocks (64 KiB).
const GROW_BLOCKS_MIN: u64 = 16;

/// The metadata area and the superblock that describes it.
pub struct MetaStore {
    disk: Arc<dyn Disk>,
    superblock: RwLock<Superblock>,
    /// Serialises growth, so two writers never back the same range twice.
    growing: Mutex<()>,
    /// Serialises writing the superblock.
    saving: Mutex<()>,
    /// Set once the allocator is loaded, which itself is read from this store.
    grow: OnceLock<Arc<Space>>,
    /// The superblock in memory differs from the disk.
    unsaved: std::sync::atomic::AtomicBool,
    /// Holds what is written when the device is only read.
    overlay: Option<Mutex<Overlay>>,
}

/// Writes that never reach the image: whole pages over the metadata area.
struct Overlay {
    pages: HashMap<u64, Box<[u8]>>,
    /// Logical bytes from here on were cut off once: the image no longer shows through.
    base: u64,
}

impl std::fmt::Debug for MetaStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetaStore").field("superblock", &*self.superblock.read()).finish()
    }
}

use std::sync::atomic::Ordering::{AcqRel, Release};

impl MetaStore {
    /// A store over `device` as `superblock` describes it.
    pub fn new(disk: Arc<dyn Disk>, superblock: Superblock) -> MetaStore {
        let overlay = Overlay { pages: HashMap::new(), base: superblock.metadata_bytes };
        MetaStore {
            overlay: (!disk.is_writable()).then(|| Mutex::new(overlay)),
            disk,
            superblock: RwLock::new(superblock),
            growing: Mutex::new(()),
            saving: Mutex::new(()),
            grow: OnceLock::new(),
            unsaved: false.into(),
        }
    }

    /// As [`MetaStore::new`], but nothing is ever written to the device.
    pub fn rehearsal(disk: Arc<dyn Disk>, superblock: Superblock) -> MetaStore {
        let overlay = Overlay { pages: HashMap::new(), base: superblock.metadata_bytes };
        let store = MetaStore::new(disk, superblock);
        MetaStore { overlay: Some(Mutex::new(overlay)), ..store }
    }

    /// Hands over the allocator. Before this, the area cannot grow.
    pub fn grow_into(&self, space: Arc<Space>) {
        if self.grow.set(space).is_err() {
            unreachable!("the allocator is handed over once, by the mount");
        }
    }

    /// A copy of the superblock.
    pub fn superblock(&self) -> Superblock {
        self.superblock.read().clone()
    }

    /// Changes the superblock and writes both copies before it returns; over a read-only device
    /// it changes in memory only.
    pub fn update(&self, change: impl FnOnce(&mut Superblock)) -> io::Result<()> {
        change(&mut self.superblock.write());
        self.unsaved.store(true, Release);
        self.save()
    }

    /// Pieces that the area may still grow by.
    pub fn chunks_left(&self) -> usize {
        CHUNKS_MAX - self.superblock.read().chunks.len()
    }

    /// Marks the image as mounted for writing, or as cleanly unmounted.
    pub fn set_mounted(&self, mounted: bool) -> io::Result<()> {
        self.update(|sb| sb.state = if mounted { STATE_MOUNTED } else { 0 })
    }

    fn save(&self) -> io::Result<()> {
        // A later saver waits until the earlier one is on disk, or it would believe that it is, and
        // an older list of chunks could overwrite a newer one.
        let _one = self.saving.lock();
        if !self.unsaved.swap(false, AcqRel) || self.overlay.is_some() {
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
        self.disk.write(0, &bytes)?;
        self.disk.sync()?;
        self.disk.write(second, &bytes)?;
        self.disk.sync()
    }

    /// Calls `f(image offset, range of the caller's buffer)` for the backed parts of a logical
    /// range.
    fn for_each_piece(
        &self,
        offset: u64,
        len: u64,
        mut f: impl FnMut(u64, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let sb = self.superblock.read();
        for chunk in &sb.chunks {
            let (first, end) = (chunk.logical * BLOCK, (chunk.logical + chunk.blocks) * BLOCK);
            let (from, to) = (offset.max(first), (offset + len).min(end));
            if from < to {
                let image = chunk.start * BLOCK + (from - first);
                f(image, (from - offset) as usize..(to - offset) as usize)?;
            }
        }
        Ok(())
    }

    /// Backs the logical bytes `[offset, end)`.
    fn back(&self, offset: u64, end: u64) -> io::Result<()> {
        let _one = self.growing.lock();
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        while let Some(gap) = self.gap(offset / BLOCK, end.div_ceil(BLOCK)) {
            let space = self.grow.get().ok_or_else(full)?;
            // Nearly full: just what is needed. Else a good piece, which later ones continue.
            let (from, want) = match space.is_low() {
                true => (gap.needed, GROW_BLOCKS_MIN.min(gap.end - gap.needed)),
                false => {
                    let from = gap.start.max(gap.needed - gap.needed % GROW_BLOCKS);
                    (from, (gap.needed + GROW_BLOCKS).min(gap.end) - from)
                }
            };
            let run = space.allocate(want, None, Class::Metadata).ok_or_else(full)?;
            if let Err(e) =
                self.insert(Chunk { logical: from, start: run.start, blocks: run.blocks })
            {
                space.unallocate(run);
                return Err(e);
            }
            space.publish(run);
        }
        Ok(())
    }

    /// The first gap between chunks that `[from, to)` touches, in blocks.
    fn gap(&self, from: u64, to: u64) -> Option<Gap> {
        let sb = self.superblock.read();
        let mut start = 0;
        let last =
            Chunk { logical: sb.metadata_bytes.div_ceil(BLOCK).max(to), start: 0, blocks: 0 };
        for chunk in sb.chunks.iter().chain([&last]) {
            let needed = from.max(start);
            if start < chunk.logical && needed < to.min(chunk.logical) {
                return Some(Gap { start, needed, end: chunk.logical });
            }
            start = chunk.logical + chunk.blocks;
        }
        None
    }

    /// Reads what the image has in a logical range; what no chunk backs is zeros.
    fn read_image(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        self.for_each_piece(offset, out.len() as u64, |image, range| {
            out[done..range.start].fill(0);
            done = range.end;
            self.disk.read(image, &mut out[range])
        })?;
        out[done..].fill(0);
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
            self.disk.write(image, &zeros[..n])?;
            (image, len) = (image + n as u64, len - n);
        }
        Ok(())
    }

    fn insert(&self, chunk: Chunk) -> io::Result<()> {
        // A fresh chunk must read as zeros: redb relies on it, and the blocks had other owners.
        self.zero(chunk.start * BLOCK, (chunk.blocks * BLOCK) as usize)?;
        let mut sb = self.superblock.write();
        let at = sb.chunks.partition_point(|c| c.logical < chunk.logical);
        let full = sb.chunks.len() == CHUNKS_MAX;
        match at.checked_sub(1).and_then(|i| sb.chunks.get_mut(i)) {
            Some(c) if c.continues_into(&chunk) => c.blocks += chunk.blocks,
            _ if full => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            _ => sb.chunks.insert(at, chunk),
        }
        self.unsaved.store(true, Release);
        Ok(())
    }
}

/// Blocks of the area that no chunk backs.
struct Gap {
    start: u64,
    /// The first one that is needed.
    needed: u64,
    end: u64,
}

impl Chunk {
    fn continues_into(&self, next: &Chunk) -> bool {
        self.logical + self.blocks == next.logical && self.start + self.blocks == next.start
    }
}

impl Overlay {
    fn read(&self, store: &MetaStore, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let shown = self.base.saturating_sub(offset).min(out.len() as u64) as usize;
        store.read_image(offset, &mut out[..shown])?;
        out[shown..].fill(0);
        for (page, at, range) in pages(offset, out.len()) {
            if let Some(bytes) = self.pages.get(&page) {
                let len = range.len();
                out[range].copy_from_slice(&bytes[at..at + len]);
            }
        }
        Ok(())
    }

    fn write(&mut self, store: &MetaStore, offset: u64, data: &[u8]) -> io::Result<()> {
        for (page, at, range) in pages(offset, data.len()) {
            if !self.pages.contains_key(&page) {
                let mut bytes = vec![0; BLOCK as usize].into_boxed_slice();
                self.read(store, page * BLOCK, &mut bytes)?;
                self.pages.insert(page, bytes);
            }
            if let Some(bytes) = self.pages.get_mut(&page) {
                bytes[at..at + range.len()].copy_from_slice(&data[range]);
            }
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        self.base = self.base.min(len);
        self.pages.retain(|page, _| page * BLOCK < len);
        if let Some(bytes) = self.pages.get_mut(&(len / BLOCK)) {
            bytes[(len % BLOCK) as usize..].fill(0);
        }
    }
}

/// The pages that a range touches: number, first byte in the page, bytes of the caller's buffer.
fn pages(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = ((offset + done as u64) % BLOCK) as usize;
        let n = (len - done).min(BLOCK as usize - at);
        let page = (offset + done as u64) / BLOCK;
        done += n;
        (n > 0).then_some((page, at, done - n..done))
    })
}

/// The handle that redb owns; the mount keeps another one to the same store.
#[derive(Debug)]
pub struct Backend(pub Arc<MetaStore>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.superblock.read().metadata_bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.0.superblock.read().metadata_bytes) {
            // A page number that a damaged page made up; redb asks for an error here.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.0.overlay {
            Some(overlay) => overlay.lock().read(&self.0, offset, out),
            None => self.0.read_image(offset, out),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let store = &self.0;
        let old = std::mem::replace(&mut store.superblock.write().metadata_bytes, len);
        if let Some(overlay) = &store.overlay {
            overlay.lock().set_len(len);
            return Ok(());
        }
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
        if self.0.overlay.is_some() {
            return Ok(());
        }
        self.0.save()?;
        self.0.disk.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let store = &self.0;
        if let Some(overlay) = &store.overlay {
            return overlay.lock().write(store, offset, data);
        }
        store.back(offset, offset + data.len() as u64)?;
        store.for_each_piece(offset, data.len() as u64, |image, range| {
            store.disk.write(image, &data[range])
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::mkfs::{MkfsOptions, SIZE_MIN, mkfs};
    use crate::image::probe;
    use proptest::prelude::*;
    use redb::StorageBackend as _;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Over a read-only device the backend behaves like a plain growing array, and the image
        /// keeps every byte.
        #[test]
        fn the_overlay_is_an_array_over_an_untouched_image(ops in prop::collection::vec(
            (0u8..3, 0u64..300_000, 1usize..9000, any::<u8>()), 1..30))
        {
            let file = tempfile::NamedTempFile::new().expect("temporary file");
            let options = MkfsOptions { size: Some(SIZE_MIN), force: true, ..Default::default() };
            mkfs(file.path(), &options).expect("mkfs");
            let before = std::fs::read(file.path()).expect("read");
            let disk = Arc::new(crate::disk::FileDisk::open(file.path(), false).expect("open"));
            let sb = probe::superblock(&*disk, false).expect("superblock");
            let backend = Backend(Arc::new(MetaStore::new(disk, sb)));
            let mut model = vec![0; backend.len().expect("length") as usize];
            backend.read(0, &mut model).expect("read all");
            for (op, at, len, byte) in ops {
                if op == 0 {
                    backend.set_len(at).expect("set_len");
                    model.resize(at as usize, 0);
                    continue;
                }
                let at = (at as usize).min(model.len());
                let len = len.min(model.len() - at);
                if op == 1 {
                    backend.write(at as u64, &vec![byte; len]).expect("write");
                    model[at..at + len].fill(byte);
                }
                let mut got = vec![0; len];
                backend.read(at as u64, &mut got).expect("read");
                prop_assert_eq!(&got[..], &model[at..at + len]);
            }
            let mut all = vec![0; model.len()];
            backend.read(0, &mut all).expect("read all");
            prop_assert!(all == model);
            prop_assert!(backend.read(model.len() as u64, &mut [0]).is_err(), "beyond the end");
            prop_assert!(std::fs::read(file.path()).expect("read") == before);
        }
    }
}
