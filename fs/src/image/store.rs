//! The running transaction and its commit.
//!
//! Every change of metadata happens inside [`Store::change`], which holds the one mutex of the
//! running transaction from the first row to the last; so a commit, which takes the same mutex,
//! never cuts an operation in half.
//!
//! Lock order of the whole filesystem, outermost first; nobody takes an earlier one while holding
//! a later one:
//!
//! 1. a range of a file (`volume::range_lock`), taken by writers and truncation
//! 2. `Store::committing`, taken by [`Store::commit`]
//! 3. `Store::running`, the running transaction
//! 4. the state of an inode (`volume::inode`), directories before what they hold
//! 5. the list of changed inodes (`volume::inode_cache`)
//! 6. [`Space`], then the pins
//! 7. the metadata area (`metastore`)

use crate::errno::{Error, Result};
use crate::image::device::Device;
use crate::image::guard::guard;
use crate::image::lock::ImageLock;
use crate::image::metastore::{Backend, MetaStore};
use crate::image::pins::{Pins, Run};
use crate::image::space::Space;
use crate::image::superblock::{Chunk, STATE_MOUNTED};
use crate::image::tables::Tables;
use nix::errno::Errno;
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, WriteTransaction};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

self_cell::self_cell!(
    struct Running {
        owner: WriteTransaction,
        #[not_covariant]
        dependent: Tables,
    }
);

/// Bytes of memory that the database may use as its cache.
const CACHE_BYTES: usize = 64 << 20;

/// An open image.
pub struct Store {
    /// Declared before the lock: the database is closed before another process may open it.
    running: Mutex<Option<Running>>,
    db: Mutex<Option<Database>>,
    meta: Arc<MetaStore>,
    device: Arc<Device>,
    space: Arc<Space>,
    committing: Mutex<()>,
    /// Commits begun, those that found nothing to do included.
    started: AtomicU64,
    /// Number of the running transaction; the first one is 1.
    sequence: AtomicU64,
    /// Number of the newest durable transaction.
    durable: AtomicU64,
    /// Changes in the running transaction.
    changes: AtomicU64,
    /// Data of new extents was written since the last flush.
    unflushed: AtomicBool,
    /// Set by FS_IOC_SHUTDOWN, by a failing image, and after a failure in the middle of a change:
    /// nothing is committed any more.
    broken: AtomicBool,
    /// The image was opened for writing.
    writable: bool,
    lock: Mutex<Option<ImageLock>>,
}

/// Pieces of the metadata area that only deletes may use.
const CHUNKS_KEPT: usize = 48;

/// How a commit may be found again after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// The next mount walks the whole database.
    Walk,
    /// The next mount is instant; this commit takes twice as long.
    Quick,
}

impl Store {
    /// Opens the metadata of an image whose superblock was read already.
    pub fn open(
        device: Arc<Device>,
        meta: Arc<MetaStore>,
        lock: Option<ImageLock>,
    ) -> Result<Store> {
        let writable = device.is_writable();
        let sb = meta.superblock();
        let pins = Arc::new(Pins::default());
        let space = Arc::new(Space::new(sb.total_blocks, pins));
        let was_mounted = sb.state & STATE_MOUNTED != 0;
        let db = open_verified(&device, &meta, &space)?;
        if was_mounted && writable {
            tracing::info!(
                "{}: was not unmounted cleanly; the last commit is used",
                device.path().display()
            );
        }
        if writable {
            meta.set_mounted(true)?;
        }
        let store = Store {
            running: Mutex::new(None),
            db: Mutex::new(Some(db)),
            meta,
            device,
            space,
            committing: Mutex::new(()),
            started: AtomicU64::new(0),
            sequence: AtomicU64::new(1),
            durable: AtomicU64::new(0),
            changes: 0.into(),
            unflushed: false.into(),
            broken: false.into(),
            writable,
            lock: Mutex::new(lock),
        };
        *store.running.lock() = Some(store.begin()?);
        Ok(store)
    }

    /// The allocator.
    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// The bytes of the image.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The superblock and metadata area.
    pub fn meta(&self) -> &Arc<MetaStore> {
        &self.meta
    }

    /// Number of the running transaction. A change made now is durable once
    /// [`Store::durable`] has reached this number.
    pub fn sequence(&self) -> u64 {
        self.sequence.load(SeqCst)
    }

    /// Number of the newest durable transaction.
    pub fn durable(&self) -> u64 {
        self.durable.load(SeqCst)
    }

    /// Changes in the running transaction.
    pub fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
    }

    /// Fails with EROFS on a read-only mount and with EIO after [`Store::shut_down`] or a failure.
    pub fn check_writable(&self) -> Result<()> {
        if self.broken.load(SeqCst) {
            return Err(Errno::EIO.into());
        }
        if !self.writable {
            return Err(Errno::EROFS.into());
        }
        Ok(())
    }

    /// True when nothing works any more but unmounting.
    pub fn is_shut_down(&self) -> bool {
        self.broken.load(SeqCst)
    }

    /// Drops the running transaction for good; the image stays at its last commit.
    pub fn shut_down(&self) {
        self.broken.store(true, SeqCst);
    }

    /// Remembers that new blocks were filled: the next commit flushes them first.
    pub fn note_new_data(&self) {
        self.unflushed.store(true, SeqCst);
    }

    /// Reads rows of the running transaction.
    pub fn read<T>(&self, f: impl FnOnce(&mut Tables<'_>) -> Result<T>) -> Result<T> {
        let mut running = self.running.lock();
        let running = running.as_mut().ok_or(Errno::EIO)?;
        running.with_dependent_mut(|_, tables| f(tables))
    }

    /// Changes rows of the running transaction. `f` refuses before its first change or not at
    /// all; any other failure leaves the transaction half done, so it is never committed.
    pub fn change<T>(&self, f: impl FnOnce(&mut Tables<'_>) -> Result<T>) -> Result<T> {
        self.check_writable()?;
        let mut running = self.running.lock();
        let running = running.as_mut().ok_or(Errno::EIO)?;
        let result = running.with_dependent_mut(|_, tables| f(tables));
        match &result {
            Ok(_) => drop(self.changes.fetch_add(1, SeqCst)),
            Err(Error::Refused(_)) => {}
            Err(e) => {
                tracing::error!("{e}; nothing is written to the image any more");
                self.shut_down();
            }
        }
        result
    }

    /// Makes everything durable that was done before the call, data included; calls that come
    /// together share one commit. `flush` adds the rows that were kept back in memory and counts
    /// them.
    pub fn commit(
        &self,
        recovery: Recovery,
        flush: impl FnOnce(&mut Tables<'_>) -> Result<usize>,
    ) -> Result<()> {
        let before = self.started.load(SeqCst);
        let _one = self.committing.lock();
        if self.is_shut_down() {
            return Err(Errno::EIO.into());
        }
        // A commit that was under way when we were called may have flushed before our data came;
        // one that began later, and is over because we hold the lock, has everything.
        if self.started.load(SeqCst) > before {
            return Ok(());
        }
        self.started.fetch_add(1, SeqCst);
        if self.unflushed.swap(false, SeqCst) {
            // The bulk is flushed while operations go on; what they add meanwhile is flushed below.
            self.device.sync().inspect_err(|_| self.shut_down())?;
        }
        let mut slot = self.running.lock();
        // A change may have failed halfway while the data was flushed.
        if self.is_shut_down() {
            return Err(Errno::EIO.into());
        }
        let result = self.commit_locked(&mut slot, recovery, flush);
        if result.is_err() {
            self.shut_down();
        }
        result
    }

    /// Waits for a commit that is under way.
    pub fn settle(&self) -> Result<()> {
        drop(self.committing.lock());
        if self.is_shut_down() { Err(Errno::EIO.into()) } else { Ok(()) }
    }

    /// True while rows may be added; what deletes needs the rest of the space, and of the pieces
    /// that the metadata area may consist of.
    pub fn has_room(&self) -> bool {
        self.space.has_room() && self.meta.chunks_left() > CHUNKS_KEPT
    }

    /// Blocks that new names and inodes may still take: 0 when [`Store::has_room`] says no.
    pub fn room(&self) -> u64 {
        if self.has_room() { self.space.room() } else { 0 }
    }

    fn commit_locked(
        &self,
        slot: &mut Option<Running>,
        recovery: Recovery,
        flush: impl FnOnce(&mut Tables<'_>) -> Result<usize>,
    ) -> Result<()> {
        let mut running = slot.take().ok_or(Errno::EIO)?;
        let rows = running.with_dependent_mut(|_, tables| -> Result<usize> {
            let rows = flush(tables)?;
            for (group, row) in self.space.take_dirty() {
                tables.groups.insert(group, row.as_slice())?;
            }
            Ok(rows)
        })?;
        if rows == 0 && self.changes() == 0 {
            *slot = Some(running);
            // Nothing was freed, but an I/O that held earlier blocks back may have ended.
            self.space.committed();
            return Ok(self.device.sync()?);
        }
        if self.unflushed.swap(false, SeqCst) {
            self.device.sync()?;
        }
        let mut txn = running.into_owner();
        txn.set_quick_repair(recovery == Recovery::Quick);
        txn.commit()?;
        self.changes.store(0, SeqCst);
        let done = self.sequence.fetch_add(1, SeqCst);
        self.durable.store(done, SeqCst);
        self.space.committed();
        *slot = Some(self.begin()?);
        Ok(())
    }

    fn begin(&self) -> Result<Running> {
        let db = self.db.lock();
        let mut txn = db.as_ref().ok_or(Errno::EIO)?.begin_write()?;
        txn.set_durability(redb::Durability::Immediate)?;
        Ok(Running::try_new(txn, |txn| Tables::open(txn))?)
    }

    /// Commits, closes the database and marks the image clean. Afterwards every call fails.
    pub fn close(&self, flush: impl FnOnce(&mut Tables<'_>) -> Result<usize>) -> Result<()> {
        let mut result = Ok(());
        if self.writable && !self.is_shut_down() {
            result = self.commit(Recovery::Quick, flush);
        }
        *self.running.lock() = None;
        *self.db.lock() = None;
        if result.is_ok() && self.writable && !self.is_shut_down() {
            self.meta.set_mounted(false)?;
        }
        self.shut_down();
        *self.lock.lock() = None;
        result
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        *self.running.lock() = None;
        *self.db.lock() = None;
    }
}

/// Opens the database of an image; a crash is repaired by falling back to the last commit.
pub fn open_database(meta: &Arc<MetaStore>) -> Result<Database> {
    let backend = Backend(meta.clone());
    Ok(Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
}

/// Opens the database after every page was compared with its checksum: redb does not do that when
/// it reads, and believes, or panics over, whatever a damaged page says. About 0.2 s for a million
/// files whose metadata is in the page cache.
///
/// For writing, the image is first opened and verified without writing. A damaged image is refused
/// as it is, and the free blocks are known when opening for writing makes the area grow.
fn open_verified(
    device: &Arc<Device>,
    meta: &Arc<MetaStore>,
    space: &Arc<Space>,
) -> Result<Database> {
    let sb = meta.superblock();
    if !device.is_writable() {
        let db = verified(meta)?;
        load_space(&db, space, &sb.chunks, sb.total_blocks)?;
        return Ok(db);
    }
    let rehearsal = Arc::new(MetaStore::rehearsal(device.clone(), sb.clone()));
    load_space(&verified(&rehearsal)?, space, &sb.chunks, sb.total_blocks)?;
    meta.grow_into(space.clone());
    guard("opening the database", || open_database(meta))
}

fn verified(meta: &Arc<MetaStore>) -> Result<Database> {
    let mut db = guard("opening the database", || open_database(meta))?;
    match guard("verifying the database", || Ok(db.check_integrity()?)) {
        Ok(true) => Ok(db),
        Ok(false) => Err(Error::Corrupt("metadata pages contradict each other".into())),
        Err(e) => {
            // Closing it would run the code that just gave up.
            std::mem::forget(db);
            Err(Error::Corrupt(format!("metadata pages are damaged ({e})")))
        }
    }
}

fn load_space(db: &Database, space: &Space, chunks: &[Chunk], total: u64) -> Result<()> {
    let txn = db.begin_read()?;
    let groups = txn.open_table(crate::image::tables::GROUPS)?;
    for row in groups.iter()? {
        let (group, bits) = row?;
        space.load_group(group.value(), bits.value());
    }
    // Chunks may have been added after the last commit; the superblock knows better.
    for run in fixed_runs(chunks, total) {
        space.claim(run);
    }
    Ok(())
}

/// Blocks that belong to no file: both superblocks and the metadata chunks.
pub fn fixed_runs(chunks: &[Chunk], total: u64) -> impl Iterator<Item = Run> + '_ {
    let ends = [0, total - 1].map(|start| Run { start, blocks: 1 });
    ends.into_iter().chain(chunks.iter().map(|c| Run { start: c.start, blocks: c.blocks }))
}
