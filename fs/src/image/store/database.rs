//! The database of an image: opened, asked what is free, and closed.

use crate::errno::Result;
use crate::image::guard::guard;
use crate::image::metastore::{Backend, MetaStore};
use crate::image::space::Space;
use crate::image::store::fixed_runs;
use crate::image::superblock::Chunk;
use crate::image::tables::{FREE, GROUPS};
use nix::errno::Errno;
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase as _, ReadableTable as _};
use std::sync::Arc;

/// Bytes of memory that the database may use as its cache.
pub(super) const CACHE_BYTES: usize = 64 << 20;
/// The database, until the store is closed.
pub(super) type SharedDatabase = Arc<Mutex<Option<Database>>>;

pub(super) fn close_database(db: &SharedDatabase) {
    let db = db.lock().take();
    drop_guarded(db);
}

/// Drops something of the database, whose last words may meet a damaged page, too.
pub(super) fn drop_guarded<T>(last: T) {
    let dropped = guard("closing the database", || {
        drop(last);
        Ok(())
    });
    if let Err(e) = dropped {
        tracing::error!("{e}");
    }
}

/// Opens the database of an image; a crash is repaired by falling back to the last commit.
pub fn open_database(meta: &Arc<MetaStore>) -> Result<Database> {
    let backend = Backend(meta.clone());
    Ok(Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
}

/// Tells the allocator what is free, as far as every mount must know it.
pub(super) fn load_space(db: &SharedDatabase, space: &Space, chunks: &[Chunk]) -> Result<()> {
    let txn = db.lock().as_ref().ok_or(Errno::EIO)?.begin_read()?;
    for row in txn.open_table(FREE)?.iter()? {
        let (index, counts) = row?;
        space.load_counts(index.value(), counts.value());
    }
    let source = db.clone();
    space.load_from(Box::new(move |group| {
        let txn = source.lock().as_ref().ok_or(Errno::EIO)?.begin_read()?;
        guard("reading a bitmap", || {
            Ok(txn.open_table(GROUPS)?.get(group)?.map(|row| row.value().to_vec()))
        })
    }));
    // Chunks may have been added after the last commit; the superblock knows better.
    fixed_runs(chunks).for_each(|run| space.claim(run));
    Ok(())
}
