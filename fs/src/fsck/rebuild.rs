//! A new database from the rows that a damaged one still gives.
//!
//! It is built in free blocks; only when all of it is durable do the superblocks point at it. A
//! crash at any moment leaves the old database or the new one.

use crate::disk::Disk;
use crate::errno::{Error, Result};
use crate::fsck::apart::Apart;
use crate::fsck::database::Examined;
use crate::fsck::groups::Layout;
use crate::fsck::room::room;
use crate::fsck::rows::Row;
use crate::fsck::table::Table;
use crate::image::guard::guard;
use crate::image::metastore::{Backend, MetaStore};
use crate::image::space::Space;
use crate::image::superblock::Superblock;
use crate::image::tables::Tables;
use redb::Database;
use std::sync::Arc;

/// Rows written between two looks at what the metadata area may need.
const ROWS_STEP: u64 = 1000;
/// Rows of one transaction.
const ROWS_COMMIT: u64 = 200_000;
/// Blocks that the area may want before it is asked again, at least and at most.
const GROWTH: (u64, u64) = (1 << 10, 1 << 17);

/// The database that is being built.
struct Site {
    db: Database,
    meta: Arc<MetaStore>,
    space: Arc<Space>,
}

/// Writes the rows of `examined` as a new database and returns the superblock that points at it.
///
/// # Errors
/// When there is no room, and those of the disk.
pub fn rebuild(
    writer: &Arc<dyn Disk>,
    superblock: &Superblock,
    examined: &Examined,
) -> Result<Superblock> {
    let space = room(examined, Layout::new(superblock), GROWTH.0)?;
    rebuild_in(writer, superblock, examined, space)
        .map_err(|e| Error::Corrupt(format!("a new database cannot be written: {e}")))
}

/// As [`rebuild`], in blocks of `space` alone, of whose size the filesystem is from then on.
///
/// # Errors
/// As for [`rebuild`].
pub fn rebuild_in(
    writer: &Arc<dyn Disk>,
    superblock: &Superblock,
    examined: &Examined,
    space: Arc<Space>,
) -> Result<Superblock> {
    let empty = Superblock {
        chunks: Vec::new(),
        metadata_bytes: 0,
        commit: None,
        total_blocks: space.total(),
        ..superblock.clone()
    };
    let apart: Arc<dyn Disk> = Arc::new(Apart(writer.clone()));
    space.reserve(GROWTH.0, None);
    let meta = Arc::new(MetaStore::create(apart, empty));
    meta.grow_into(space.clone());
    guard("building the database", || {
        let backend = Backend(meta.clone());
        let db = Database::builder().create_with_backend(backend)?;
        let site = Site { db, meta: meta.clone(), space };
        site.copy_all(examined)
    })?;
    writer.sync()?;
    let next = Superblock { state: 0, ..meta.superblock() };
    let target = MetaStore::replace(writer.clone(), next, superblock);
    target.update(|_| ())?;
    Ok(target.superblock())
}

impl Site {
    fn copy_all(&self, examined: &Examined) -> Result<()> {
        let m = &examined.model;
        self.copy(&m.inodes, |t| &mut t.inodes)?;
        self.copy(&m.names, |t| &mut t.names)?;
        self.copy(&m.extents, |t| &mut t.extents)?;
        self.copy(&m.targets, |t| &mut t.targets)?;
        self.copy(&m.xattrs, |t| &mut t.xattrs)?;
        self.copy(&m.orphans, |t| &mut t.orphans)?;
        self.copy(&m.groups, |t| &mut t.groups)?;
        self.copy(&m.free, |t| &mut t.free)?;
        self.copy(&m.counters, |t| &mut t.counters)
    }

    /// Copies a table.
    fn copy<R: Row>(
        &self,
        from: &Table<R>,
        table: impl for<'a, 't> Fn(
            &'a mut Tables<'t>,
        ) -> &'a mut redb::Table<'t, R::DiskKey, R::DiskValue>,
    ) -> Result<()> {
        let mut rows = from.rows();
        let mut more = true;
        while more {
            self.make_room();
            let mut txn = self.db.begin_write()?;
            {
                let mut tables = Tables::open(&txn)?;
                let to = table(&mut tables);
                for n in 0..ROWS_COMMIT {
                    let Some((key, value)) = rows.next()? else {
                        more = false;
                        break;
                    };
                    R::put(to, &key, &value)?;
                    if n % ROWS_STEP == 0 {
                        self.make_room();
                    }
                }
            }
            txn.set_quick_repair(true);
            txn.commit()?;
        }
        Ok(())
    }

    fn make_room(&self) {
        let usual = (self.meta.backed_blocks() / 4).clamp(GROWTH.0, GROWTH.1);
        self.meta.plan();
        if self.space.reserved() < usual / 2 {
            self.space.reserve(usual, self.meta.end());
        }
    }
}
