//! The metadata database under check: opened, verified, read, and corrected in place.

use crate::disk::Disk;
use crate::errno::{Error, Result};
use crate::fsck::claims::Claims;
use crate::fsck::groups::{self, Layout};
use crate::fsck::model::Model;
use crate::fsck::report::Findings;
use crate::fsck::salvage::Salvage;
use crate::fsck::{Progress, doubts, extents, inodes, names, tree};
use crate::image::guard::guard;
use crate::image::metastore::{Backend, MetaStore};
use crate::image::space::Space;
use crate::image::store::open_database;
use crate::image::superblock::Superblock;
use crate::image::tables::Tables;
use redb::{Database, ReadableDatabase as _};
use std::sync::Arc;

/// Bytes of memory that a database which is only read may use as its cache.
const CACHE_BYTES: usize = 48 << 20;

/// A database that may be damaged.
pub struct Suspect {
    db: Option<Database>,
    meta: Arc<MetaStore>,
}

/// What a check of all rows came to.
pub struct Examined {
    /// The rows, corrected.
    pub model: Model,
    /// Blocks that have an owner.
    pub claims: Claims,
    /// Inodes in use.
    pub inodes: u64,
}

impl Suspect {
    /// Opens the database of `superblock`. Over a device that is not writable, what opening and
    /// verifying repair stays in memory.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn open(disk: &Arc<dyn Disk>, superblock: &Superblock) -> Result<Suspect> {
        Suspect::over(MetaStore::salvage(disk.clone(), superblock.clone()), None)
    }

    /// As [`Suspect::open`], to be written: the metadata area may grow into what `room` has set
    /// aside.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn open_in(
        disk: &Arc<dyn Disk>,
        superblock: &Superblock,
        room: Arc<Space>,
    ) -> Result<Suspect> {
        let meta = MetaStore::new(disk.clone(), superblock.clone());
        // Until it is closed, it is not at the commit that the superblock speaks of.
        meta.set_mounted(true)?;
        Suspect::over(meta, Some(room))
    }

    fn over(meta: MetaStore, room: Option<Arc<Space>>) -> Result<Suspect> {
        let meta = Arc::new(meta);
        let is_written = room.is_some();
        if let Some(space) = room {
            meta.grow_into(space);
        }
        let db = guard("opening the database", || match is_written {
            true => open_database(&meta),
            false => {
                let mut builder = Database::builder();
                let backend = Backend(meta.clone());
                Ok(builder.set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
            }
        })?;
        Ok(Suspect { db: Some(db), meta })
    }

    /// Some blocks were met that do not have their checksums: a mount would not read them.
    pub fn is_rotten(&self) -> bool {
        self.meta.damage_met() > 0
    }

    /// Compares every page with the checksum in its parent, and every block with its own. `false`
    /// when the database contradicts itself: what it makes of itself then may be an earlier commit.
    pub fn verify(&mut self, f: &mut Findings) -> bool {
        let verified = self.with("verifying the database", |db| Ok(db.check_integrity()?));
        match &verified {
            Ok(true) => {}
            Ok(false) => {
                let remedy = "the database is written anew";
                f.error("database", "its pages contradict each other", remedy);
            }
            Err(e) => {
                f.error("database", e.to_string(), "the rows that can be read are written anew");
            }
        }
        for block in self.meta.damaged() {
            let problem = "does not have its checksum";
            f.error(format!("metadata block {block}"), problem, "the database is written anew");
        }
        verified.is_ok_and(|is_consistent| is_consistent)
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

    /// Checks all rows.
    ///
    /// # Errors
    /// Those of the database.
    pub fn examine(&mut self, f: &mut Findings, progress: Progress<'_>) -> Result<Examined> {
        let superblock = self.meta.superblock();
        self.with("reading the database", |db| {
            progress("opening tables");
            let model = Model::open(&db.begin_read()?, f);
            check_rows(model, f, &superblock, progress)
        })
    }

    /// Writes the corrected rows in one transaction.
    ///
    /// # Errors
    /// Those of the database.
    pub fn store(&mut self, model: &Model) -> Result<()> {
        self.with("writing the database", |db| {
            let mut txn = db.begin_write()?;
            {
                let mut tables = Tables::open(&txn)?;
                model.store(&mut tables)?;
            }
            txn.set_quick_repair(true);
            Ok(txn.commit()?)
        })
    }

    /// Closes the database and marks the image clean.
    ///
    /// # Errors
    /// Those of the disk.
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

/// Checks all rows that can be found without the help of the database.
///
/// # Errors
/// When nothing can be, and those of the disk.
pub fn salvage(
    disk: &Arc<dyn Disk>,
    superblock: &Superblock,
    f: &mut Findings,
    progress: Progress<'_>,
) -> Result<Examined> {
    guard("looking for what can be read", || {
        let found = Salvage::collect(disk, superblock, f)?;
        let model = Model::salvaged(found, f);
        check_rows(model, f, superblock, progress)
    })
}

fn check_rows(
    mut m: Model,
    f: &mut Findings,
    superblock: &Superblock,
    progress: Progress<'_>,
) -> Result<Examined> {
    let layout = Layout::new(superblock);
    progress("checking inodes");
    let mut census = inodes::check(&mut m, f)?;
    progress("checking names");
    names::check(&mut m, f, &mut census, &superblock.hash_key)?;
    progress("checking directories");
    let orphans = tree::check(&mut m, f, &mut census, &superblock.hash_key)?;
    progress("checking blocks");
    if m.incomplete {
        doubts::drop_doubtful(&mut m, f, layout)?;
    }
    let mut claims = extents::check(&mut m, f, layout, &census, &orphans)?;
    progress("checking bitmaps");
    groups::check(&m, f, layout, &claims)?;
    if !orphans.is_empty() {
        tree::reclaim(&mut m, f, &census, &orphans, &mut claims)?;
    }
    groups::correct(&mut m, &claims)?;
    Ok(Examined { model: m, claims, inodes: census.len() - orphans.len() as u64 })
}
