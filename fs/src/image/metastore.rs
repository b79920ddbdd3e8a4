//! The metadata area: where the database lives inside the image.
//!
//! redb sees one growing file. Here it is a list of chunks; bytes between and beyond them read as
//! zeros and cost nothing until they are written. The chunk list and the length of the file live in
//! the superblock, which is rewritten before a flush reports success, so no commit ever depends on
//! a chunk that a crash would forget. Every block of the file but the first, which redb protects
//! itself, has a checksum that is compared when the block is read.
//!
//! Opening a database writes to it: a crash is repaired, flags are set. Over a disk that was
//! opened for reading, all of that stays in memory and the image keeps every byte.
//!
//! Lock order: `growing`, `writing`, the superblock, `plans`, `sums`; `saving` and `flushing` before the superblock.

mod backend;
mod blocks;
mod growth;
mod overlay;
mod sums;

pub use backend::Backend;
pub use blocks::Page;
pub use sums::area_blocks;

use crate::disk::Disk;
use crate::image::BLOCK;
use crate::image::pages::{self, Place, SLOT_BYTES, Slot};
use crate::image::space::Space;
use crate::image::superblock::{CHUNKS_MAX, Chunk, SECOND, STATE_MOUNTED, Superblock};
use crate::mutant::{self, Mutant};
use overlay::Overlay;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use sums::Sums;

/// What becomes of a block of the database whose checksum is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rotten {
    /// The database gets zeros, over which it gives up (see [`guard`](crate::image::guard)): the
    /// request that met them fails, and no other.
    Withheld,
    /// The database gets what there is: it is being salvaged.
    Shown,
}

/// The metadata area and the superblock that describes it.
pub struct MetaStore {
    disk: Arc<dyn Disk>,
    uuid: [u8; 16],
    superblock: RwLock<Superblock>,
    /// Serialises growth, so two writers never back the same range twice.
    growing: Mutex<()>,
    /// Serialises writing the superblock; holds what both copies say.
    saving: Mutex<Option<Vec<u8>>>,
    /// The superblock in memory differs from the disk.
    unsaved: AtomicBool,
    /// Shared by writers of blocks; whoever doubts a block takes it alone.
    writing: RwLock<()>,
    sums: Mutex<Sums>,
    /// Serialises writing checksums, so that none overwrites a newer one.
    flushing: Mutex<()>,
    /// Where parts of the area are to be that are not backed yet.
    plans: Mutex<Vec<Chunk>>,
    /// The database may write where nothing is backed and nothing is planned.
    unplanned: AtomicBool,
    /// Set once the allocator is loaded, which itself is read from this store.
    space: OnceLock<Arc<Space>>,
    /// Holds what is written when the disk is only read.
    overlay: Option<Mutex<Overlay>>,
    /// Nothing is written any more.
    frozen: AtomicBool,
    /// Something that the database wrote, or its flush, failed.
    unwritten: AtomicBool,
    rotten: Rotten,
    /// Blocks of the database that were found damaged: the first of them, and how often any was met.
    damaged: Mutex<BTreeSet<u64>>,
    damage_met: AtomicU64,
}

/// Damaged blocks that are remembered by number.
const DAMAGED_KEPT: usize = 4096;

impl std::fmt::Debug for MetaStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetaStore").field("superblock", &*self.superblock.read()).finish()
    }
}

impl MetaStore {
    /// A store over `disk` as `superblock`, read from it, describes it.
    pub fn new(disk: Arc<dyn Disk>, superblock: Superblock) -> MetaStore {
        let overlay = Overlay::new(superblock.metadata_bytes);
        MetaStore {
            overlay: (!disk.is_writable()).then(|| Mutex::new(overlay)),
            disk,
            uuid: superblock.uuid,
            saving: Mutex::new(Some(superblock.encode())),
            superblock: RwLock::new(superblock),
            growing: Mutex::new(()),
            unsaved: false.into(),
            writing: RwLock::new(()),
            sums: Mutex::default(),
            flushing: Mutex::default(),
            plans: Mutex::default(),
            unplanned: true.into(),
            space: OnceLock::new(),
            frozen: false.into(),
            unwritten: false.into(),
            rotten: Rotten::Withheld,
            damaged: Mutex::default(),
            damage_met: 0.into(),
        }
    }

    /// As [`MetaStore::new`], for an area that does not exist yet: its chunks hold nothing.
    pub fn create(disk: Arc<dyn Disk>, superblock: Superblock) -> MetaStore {
        let chunks = superblock.chunks.clone();
        let store = MetaStore { saving: Mutex::new(None), ..MetaStore::new(disk, superblock) };
        chunks.iter().for_each(|chunk| store.begin(chunk));
        store
    }

    /// As [`MetaStore::create`], for an area that takes the place of the one that `known` describes.
    pub fn replace(disk: Arc<dyn Disk>, next: Superblock, known: &Superblock) -> MetaStore {
        let saving = Mutex::new(Some(known.encode()));
        MetaStore { saving, ..MetaStore::create(disk, next) }
    }

    /// As [`MetaStore::new`], but damaged blocks are shown to the database and counted.
    pub fn salvage(disk: Arc<dyn Disk>, superblock: Superblock) -> MetaStore {
        MetaStore { rotten: Rotten::Shown, ..MetaStore::new(disk, superblock) }
    }

    /// Hands over the allocator. Before this, the area cannot grow.
    ///
    /// # Panics
    /// When it is handed over twice.
    pub fn grow_into(&self, space: Arc<Space>) {
        assert!(self.space.set(space).is_ok(), "the area has one allocator");
    }

    /// A copy of the superblock.
    pub fn superblock(&self) -> Superblock {
        self.superblock.read().clone()
    }

    /// Changes the superblock and writes both copies before it returns; over a read-only disk
    /// it changes in memory only.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn update(&self, change: impl FnOnce(&mut Superblock)) -> io::Result<()> {
        change(&mut self.superblock.write());
        self.unsaved.store(true, Release);
        self.save()
    }

    /// Pieces that the area may still grow by.
    pub fn chunks_left(&self) -> usize {
        CHUNKS_MAX - self.superblock.read().chunks.len()
    }

    /// Blocks that the area has.
    pub fn backed_blocks(&self) -> u64 {
        self.superblock.read().backed_bytes() / BLOCK
    }

    /// Where the area would best grow: behind its last piece.
    pub fn end(&self) -> Option<u64> {
        self.superblock.read().chunks.last().map(|c| c.start + c.blocks)
    }

    /// Marks the image as mounted for writing, or as cleanly unmounted: then it also says which
    /// commit it is at, in case the header of the database is lost.
    ///
    /// # Errors
    /// Those of the disk; EIO when it cannot be clean, because what the database wrote last failed.
    pub fn set_mounted(&self, mounted: bool) -> io::Result<()> {
        if !mounted && self.unwritten.load(Acquire) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let commit = if mounted { None } else { self.counting_slot()? };
        self.update(|sb| {
            sb.state = if mounted { STATE_MOUNTED } else { 0 };
            sb.commit = commit;
        })
    }

    /// The commit slot that counts, as it is in the header of the database.
    fn counting_slot(&self) -> io::Result<Option<[u8; SLOT_BYTES]>> {
        let head = self.page(Place { block: 0, blocks: 1 })?;
        let slot = head.and_then(|page| pages::slots(&page.bytes).first().copied());
        Ok(slot.filter(|bytes| Slot::decode(bytes).is_some()))
    }

    /// Refuses everything that the database may still want to write: a database that is closed
    /// commits once more, and what failed must not be made durable by that.
    pub fn freeze(&self) {
        self.frozen.store(true, Release);
    }

    /// Blocks of the database whose checksums were found wrong, the first few thousand.
    pub fn damaged(&self) -> Vec<u64> {
        self.damaged.lock().iter().copied().collect()
    }

    /// How often a damaged block was met.
    pub fn damage_met(&self) -> u64 {
        self.damage_met.load(Acquire)
    }

    fn save(&self) -> io::Result<()> {
        // A later saver waits until the earlier one is on disk, or it would believe that it is, and
        // an older list of chunks could overwrite a newer one.
        let mut saved = self.saving.lock();
        if !self.unsaved.swap(false, AcqRel) || self.overlay.is_some() {
            return Ok(());
        }
        let result = self.write_copies(&mut saved);
        if result.is_err() {
            self.unsaved.store(true, Release);
        }
        result
    }

    /// Writes both copies. One is written only while the other is whole and says what was last
    /// known, so whatever a crash leaves, one copy is good.
    fn write_copies(&self, saved: &mut Option<Vec<u8>>) -> io::Result<()> {
        if let Some(known) = saved.as_deref().filter(|_| !mutant::is(Mutant::SkipSuperblockRepair))
        {
            self.level(known)?;
        }
        let bytes = {
            let mut sb = self.superblock.write();
            sb.sequence += 1;
            sb.encode()
        };
        for copy in [0, SECOND] {
            self.disk.write(copy * BLOCK, &bytes)?;
            self.disk.sync()?;
        }
        *saved = Some(bytes);
        Ok(())
    }

    /// Makes a copy that a crash left older, or that was damaged, say what the other one says.
    fn level(&self, known: &[u8]) -> io::Result<()> {
        for copy in [SECOND, 0] {
            let mut there = vec![0; BLOCK as usize];
            // What cannot be read may still be written.
            if self.disk.read(copy * BLOCK, &mut there).is_err() || there != known {
                self.disk.write(copy * BLOCK, known)?;
                self.disk.sync()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::FileDisk;
    use crate::image::mkfs::{MkfsOptions, SIZE_MIN, mkfs};
    use crate::image::probe;
    use proptest::prelude::*;
    use redb::StorageBackend as _;

    /// redb makes room for what a page number says before it asks for the page: 4 GiB.
    #[test]
    fn a_branch_that_leads_to_a_giant_is_not_shown() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let options = MkfsOptions { size: Some(SIZE_MIN), force: true, ..Default::default() };
        mkfs(file.path(), &options).expect("mkfs");
        let disk = Arc::new(FileDisk::open(file.path(), false).expect("open"));
        let sb = probe::superblock(&*disk, false).expect("superblock");
        let backend = Backend(Arc::new(MetaStore::new(disk, sb)));
        for (order, is_shown) in [(0u64, true), (10, true), (11, false), (20, false)] {
            let mut branch = vec![7; BLOCK as usize];
            branch[..4].copy_from_slice(&[2, 0, 1, 0]);
            for child in 0..2 {
                let number = if child == 1 { order << 59 | 5 } else { 9 };
                branch[40 + 8 * child..48 + 8 * child].copy_from_slice(&number.to_le_bytes());
            }
            backend.write(50 * BLOCK, &branch).expect("write");
            let mut seen = vec![0; BLOCK as usize];
            backend.read(50 * BLOCK, &mut seen).expect("read");
            let expected = if is_shown { branch } else { vec![0; BLOCK as usize] };
            assert!(seen == expected, "order {order}");
        }
    }

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
            let disk = Arc::new(FileDisk::open(file.path(), false).expect("open"));
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
