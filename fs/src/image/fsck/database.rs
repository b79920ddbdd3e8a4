//! The metadata database under check: opened, verified, read, and corrected in place.

use crate::disk::Disk;
use crate::errno::{Error, Result};
use crate::image::fsck::bitmaps::Bitmaps;
use crate::image::fsck::blocks::{self, Layout};
use crate::image::fsck::model::Model;
use crate::image::fsck::report::Findings;
use crate::image::fsck::{Progress, inodes, names, tree};
use crate::image::guard::guard;
use crate::image::metastore::MetaStore;
use crate::image::pins::Pins;
use crate::image::space::Space;
use crate::image::store::open_database;
use crate::image::superblock::Superblock;
use crate::image::tables::Tables;
use redb::{Database, ReadableDatabase as _};
use std::sync::Arc;

/// Blocks that a repair may add to the metadata area.
const GROWTH_BLOCKS: u64 = 1 << 14;

/// A database that may be damaged.
pub struct Suspect {
    db: Option<Database>,
    meta: Arc<MetaStore>,
    /// It contradicts its own checksums beyond what it can repair.
    damaged: bool,
}

/// What a check of all rows came to.
pub struct Examined {
    /// The rows, corrected.
    pub model: Model,
    /// The bitmaps as they were.
    pub bitmaps: Bitmaps,
    /// Blocks in use.
    pub blocks_used: u64,
}

impl Suspect {
    /// Opens the database of `superblock` and verifies every page. Over a device that is not
    /// writable, what opening and verifying repair stays in memory; over another one the metadata
    /// area may grow into `room`.
    pub fn open(
        disk: &Arc<dyn Disk>,
        superblock: &Superblock,
        room: Option<Arc<Space>>,
        f: &mut Findings,
    ) -> Result<Suspect> {
        let meta = Arc::new(MetaStore::salvage(disk.clone(), superblock.clone()));
        if let Some(space) = room {
            space.reserve(GROWTH_BLOCKS, meta.end());
            meta.grow_into(space);
        }
        let db = guard("opening the database", || open_database(&meta))?;
        let mut suspect = Suspect { db: Some(db), meta, damaged: false };
        suspect.verify(f);
        Ok(suspect)
    }

    /// It must be written anew: some of it cannot be read, or not by a mount.
    pub fn is_damaged(&self) -> bool {
        self.damaged || !self.meta.damaged().is_empty()
    }

    fn verify(&mut self, f: &mut Findings) {
        match self.with("verifying the database", |db| Ok(db.check_integrity()?)) {
            Ok(true) => {}
            Ok(false) => {
                let remedy = "the newest consistent state is kept";
                f.error("database", "its pages contradict each other", remedy);
            }
            Err(e) => {
                f.error("database", e.to_string(), "the rows that can be read are written anew");
                self.damaged = true;
            }
        }
        for block in self.meta.damaged() {
            let problem = "does not have its checksum";
            f.error(format!("metadata block {block}"), problem, "the database is written anew");
        }
    }

    /// Uses the database. After a panic in it, it is leaked: closing it would run the code that
    /// just gave up.
    fn with<T>(&mut self, what: &str, f: impl FnOnce(&mut Database) -> Result<T>) -> Result<T> {
        let mut db = self.db.take().ok_or_else(|| Error::Damaged("the database gave up".into()))?;
        let result = guard(what, || f(&mut db));
        if matches!(&result, Err(Error::Damaged(_))) {
            std::mem::forget(db);
        } else {
            self.db = Some(db);
        }
        result
    }

    /// Reads all rows and checks them.
    pub fn examine(&mut self, f: &mut Findings, progress: Progress<'_>) -> Result<Examined> {
        let superblock = self.meta.superblock();
        progress("reading rows");
        let mut model = self.with("reading the database", |db| {
            let txn = db.begin_read()?;
            Ok(Model::load(&txn, f))
        })?;
        model.incomplete |= self.damaged;
        Ok(check_rows(model, f, &superblock, progress))
    }

    /// Writes the corrected rows in one transaction.
    pub fn store(&mut self, model: &Model) -> Result<()> {
        self.with("writing the database", |db| write(db, model))
    }

    /// Closes the database and marks the image clean.
    pub fn close(mut self) -> Result<()> {
        self.with_closed()?;
        Ok(self.meta.set_mounted(false)?)
    }

    fn with_closed(&mut self) -> Result<()> {
        let db = self.db.take();
        guard("closing the database", || {
            drop(db);
            Ok(())
        })
    }
}

impl Drop for Suspect {
    fn drop(&mut self) {
        if let Err(e) = self.with_closed() {
            tracing::debug!("{e}");
        }
    }
}

/// Writes all rows of `model` that differ, in one transaction.
pub fn write(db: &Database, model: &Model) -> Result<()> {
    let mut txn = db.begin_write()?;
    {
        let mut tables = Tables::open(&txn)?;
        model.store(&mut tables)?;
    }
    txn.set_quick_repair(true);
    Ok(txn.commit()?)
}

/// Free blocks: those that neither the old bitmaps nor the corrected ones have in use.
pub fn free_blocks(examined: &Examined, total: u64) -> Arc<Space> {
    let space = Arc::new(Space::new(total, Arc::new(Pins::default())));
    for bitmaps in [&examined.bitmaps, &examined.model.bitmaps] {
        bitmaps.claim_in(&space, total);
    }
    space
}

fn check_rows(
    mut m: Model,
    f: &mut Findings,
    superblock: &Superblock,
    progress: Progress<'_>,
) -> Examined {
    let layout = Layout { total: superblock.total_blocks, chunks: &superblock.chunks };
    let bitmaps = m.bitmaps.clone();
    progress("checking inodes");
    inodes::check(&mut m, f);
    progress("checking names");
    names::check(&mut m, f, &superblock.hash_key);
    progress("checking directories");
    let orphans = tree::check(&mut m, f, &superblock.hash_key);
    progress("checking blocks");
    let mut claims = blocks::check(&mut m, f, layout);
    if !orphans.is_empty() {
        let gone = m.extents.iter().filter(|((ino, _), _)| orphans.contains(ino));
        gone.for_each(|(_, extent)| claims.release(extent.start));
        tree::reclaim(&mut m, f, &orphans);
        m.bitmaps = Bitmaps::of(&claims, layout.total);
    }
    Examined { model: m, bitmaps, blocks_used: claims.blocks() }
}
