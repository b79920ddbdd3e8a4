//! The running transaction and its commit.
//!
//! Every change of metadata happens inside [`Store::change`], which holds the one mutex of the
//! running transaction from the first row to the last; so a commit, which takes the same mutex,
//! never cuts an operation in half.
//!
//! A commit first ends the running transaction in memory, which takes microseconds, and then makes
//! it durable, which takes two flushes: pages, checksums and file data, then the commit slot. In
//! between changes wait, and reads are answered from a snapshot of what is being made durable.
//!
//! Lock order of the whole filesystem, outermost first; nobody takes an earlier one while holding
//! a later one:
//!
//! 1. a range of a file (`volume::range_lock`), taken by writers and truncation
//! 2. `Store::committing`, taken by [`Store::commit`]
//! 3. `Store::running`, the running transaction
//! 4. `Store::snapshots`, shared by readers while a commit is under way
//! 5. the state of an inode (`volume::inode`), directories before what they hold
//! 6. the list of changed inodes (`volume::inode_cache`)
//! 7. [`Space`], then the pins
//! 8. `Store::db`
//! 9. the metadata area (`metastore`)

mod commit;
mod database;

use crate::disk::Disk;
use crate::errno::{Error, Result};
use crate::image::group_commit::GroupCommit;
use crate::image::guard::guard;
use crate::image::lock::ImageLock;
use crate::image::metastore::MetaStore;
use crate::image::pins::{Pins, Run};
use crate::image::space::Space;
use crate::image::superblock::{Chunk, SECOND, STATE_MOUNTED};
use crate::image::tables::Tables;
use crate::image::view::View;
use nix::errno::Errno;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use redb::{ReadableDatabase as _, WriteTransaction};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

pub use database::open_database;
use database::{CACHE_BYTES, SharedDatabase, close_database, drop_guarded, load_space};

self_cell::self_cell!(
    struct Running {
        owner: WriteTransaction,
        #[not_covariant]
        dependent: Tables,
    }
);

/// Blocks that are set aside for the metadata area, at least and at most, while there is room.
const GROWTH_MIN: u64 = 1 << 10;
const GROWTH_MAX: u64 = 1 << 17;
/// Pieces of the metadata area that only deletes may use.
const CHUNKS_KEPT: usize = 32;

/// What changes go into.
enum Slot {
    /// The running transaction.
    Open(Running),
    /// It has ended and is being made durable.
    Committing,
    /// The store is closed, or a commit failed.
    Closed,
}

/// An open image.
pub struct Store {
    /// Declared before the lock: the database is closed before another process may open it.
    running: Mutex<Slot>,
    /// Signalled when a commit is over.
    reopened: Condvar,
    /// Held shared by those who read a snapshot, so that no change comes between what they read
    /// and what they remember of it.
    snapshots: RwLock<()>,
    db: SharedDatabase,
    meta: Arc<MetaStore>,
    disk: Arc<dyn Disk>,
    space: Arc<Space>,
    committing: GroupCommit,
    /// Number of the running transaction; the first one is 1.
    sequence: AtomicU64,
    /// Number of the newest durable transaction.
    durable: AtomicU64,
    /// Changes in the running transaction.
    changes: AtomicU64,
    /// Bytes of new extents that were written since the last flush.
    unflushed: AtomicU64,
    /// Nothing is committed any more: FS_IOC_SHUTDOWN, or a failure.
    broken: AtomicBool,
    /// It was a failure, of the image or in the middle of a change.
    failed: AtomicBool,
    /// The image was opened for writing.
    writable: bool,
    /// Freed blocks are given back to whatever holds the image.
    discards: AtomicBool,
    lock: Mutex<Option<ImageLock>>,
}

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
    ///
    /// # Errors
    /// When the database cannot be opened. Nothing was written then.
    pub fn open(
        disk: Arc<dyn Disk>,
        meta: Arc<MetaStore>,
        lock: Option<ImageLock>,
    ) -> Result<Store> {
        let writable = disk.is_writable();
        let sb = meta.superblock();
        let space = Arc::new(Space::new(sb.total_blocks, Arc::new(Pins::default())));
        if writable {
            meta.grow_into(space.clone());
        }
        let db = guard("opening the database", || open_database(&meta))?;
        let db = Arc::new(Mutex::new(Some(db)));
        // The allocator keeps the database from here on, so a failure must take it away.
        guard("reading the bitmaps", || load_space(&db, &space, &sb.chunks)).inspect_err(|_| {
            meta.freeze();
            close_database(&db);
        })?;
        if sb.state & STATE_MOUNTED != 0 && writable {
            tracing::info!(
                "{}: was not unmounted cleanly; the last commit is used",
                disk.name().display()
            );
        }
        if writable {
            meta.set_mounted(true).inspect_err(|_| {
                meta.freeze();
                close_database(&db);
            })?;
        }
        let store = Store {
            running: Mutex::new(Slot::Closed),
            reopened: Condvar::new(),
            snapshots: RwLock::new(()),
            db,
            meta,
            disk,
            space,
            committing: GroupCommit::default(),
            sequence: AtomicU64::new(1),
            durable: AtomicU64::new(0),
            changes: 0.into(),
            unflushed: 0.into(),
            broken: false.into(),
            failed: false.into(),
            writable,
            discards: false.into(),
            lock: Mutex::new(lock),
        };
        store.prepare_growth(0);
        *store.running.lock() = Slot::Open(guard("opening the tables", || store.begin())?);
        Ok(store)
    }

    /// The allocator.
    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// The bytes of the image.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
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

    /// As [`Store::shut_down`], because something went wrong: [`Store::close`] will say so.
    pub fn fail(&self) {
        self.failed.store(true, SeqCst);
        self.shut_down();
    }

    /// Remembers that `bytes` of new blocks were filled: the next commit flushes them first.
    pub fn note_new_data(&self, bytes: u64) {
        self.unflushed.fetch_add(bytes, SeqCst);
    }

    /// Reads rows as they are now. `f` asks for nothing else of the store.
    ///
    /// # Errors
    /// Those of `f`; EUCLEAN when it met a damaged page.
    pub fn read<T>(&self, f: impl FnOnce(&View<'_>) -> Result<T>) -> Result<T> {
        let mut slot = self.running.lock();
        match &mut *slot {
            Slot::Open(running) => {
                let read = || running.with_dependent_mut(|_, tables| f(&tables.view()));
                guard("reading metadata", read)
            }
            Slot::Closed => Err(Errno::EIO.into()),
            Slot::Committing => {
                let _steady = self.snapshots.read();
                drop(slot);
                let txn = self.db.lock().as_ref().ok_or(Errno::EIO)?.begin_read()?;
                guard("reading metadata", || f(&View::Snapshot(&txn)))
            }
        }
    }

    /// Changes rows of the running transaction. `f` refuses before its first change or not at
    /// all; any other failure, a panic included, leaves the transaction half done: the store is
    /// broken before anybody else gets at it.
    ///
    /// # Errors
    /// Those of `f`, EROFS and EIO.
    pub fn change<T>(&self, f: impl FnOnce(&mut Tables<'_>) -> Result<T>) -> Result<T> {
        self.check_writable()?;
        let mut slot = self.open_slot();
        // What went wrong while we waited concerns us too.
        self.check_writable()?;
        let Slot::Open(running) = &mut *slot else { return Err(Errno::EIO.into()) };
        self.prepare_growth(0);
        let result = guard("changing metadata", || running.with_dependent_mut(|_, t| f(t)));
        match &result {
            Ok(_) => drop(self.changes.fetch_add(1, SeqCst)),
            Err(Error::Refused(_)) => {}
            Err(e) => {
                tracing::error!("{e}; nothing is written to the image any more");
                self.fail();
            }
        }
        result
    }

    /// The running transaction, once no commit is under way.
    fn open_slot(&self) -> MutexGuard<'_, Slot> {
        let mut slot = self.running.lock();
        while matches!(*slot, Slot::Committing) {
            self.reopened.wait(&mut slot);
        }
        slot
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

    /// Sets blocks aside for what the metadata area may grow by before the next commit, with
    /// `rows` rows still in memory. `false` when there are too few: commit now.
    pub fn prepare_growth(&self, rows: u64) -> bool {
        if !self.writable {
            return true;
        }
        // A change copies the pages on the way to each row that it touches: some 20 when the
        // transaction is young, then fewer, for most were copied already. What has been copied and
        // not written yet fits the cache.
        let changes = self.changes() + rows;
        let need = 256 + (32 * changes).min(2048 + 4 * changes).min(CACHE_BYTES as u64 / 4096);
        let usual = (self.meta.backed_blocks() / 4).clamp(GROWTH_MIN, GROWTH_MAX);
        self.meta.plan();
        if self.space.reserved() < need.max(usual / 2) {
            self.space.reserve(usual.max(2 * need), self.meta.end());
        }
        self.space.reserved() >= need
    }

    /// Opens to file data what is set aside beyond what deletes need; true when that was anything.
    pub fn relinquish(&self) -> bool {
        let any = self.space.relinquish();
        if any {
            self.meta.replan();
        }
        any
    }

    /// Commits, closes the database and marks the image clean. Afterwards every call fails.
    ///
    /// # Errors
    /// EIO when the last commit failed, now or before: what came after the one before it is lost.
    pub fn close(&self, flush: impl FnOnce(&mut Tables<'_>) -> Result<usize>) -> Result<()> {
        let was_broken = self.is_shut_down();
        let mut result = Ok(());
        if self.writable && !was_broken {
            result = self.commit(Recovery::Quick, flush);
        }
        if self.is_shut_down() || result.is_err() {
            self.meta.freeze();
        }
        self.close_database();
        if result.is_ok() && self.writable && !was_broken {
            self.meta.set_mounted(false)?;
        }
        self.shut_down();
        *self.lock.lock() = None;
        let lost = || Error::Damaged("what came after the last commit is lost".into());
        if self.failed.load(SeqCst) { result.and(Err(lost())) } else { result }
    }

    fn close_database(&self) {
        let running = std::mem::replace(&mut *self.open_slot(), Slot::Closed);
        drop_guarded(running);
        close_database(&self.db);
    }
}

impl Drop for Store {
    /// Without [`Store::close`] this is a crash: the image stays at its last commit.
    fn drop(&mut self) {
        self.meta.freeze();
        self.close_database();
    }
}

/// Blocks that belong to no file: both superblocks and the metadata chunks.
pub fn fixed_runs(chunks: &[Chunk]) -> impl Iterator<Item = Run> + '_ {
    let copies = [0, SECOND].map(|start| Run { start, blocks: 1 });
    copies.into_iter().chain(chunks.iter().map(|c| Run { start: c.start, blocks: c.blocks }))
}
