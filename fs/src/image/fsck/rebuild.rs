//! A new database from the rows that a damaged one still gives.
//!
//! It is built in memory and copied to free blocks; only then do the superblocks point at it. A
//! crash at any moment leaves the old database or the new one.

use crate::disk::Disk;
use crate::errno::{Error, Result};
use crate::image::fsck::database::{Examined, free_blocks, write};
use crate::image::guard::guard;
use crate::image::metastore::{Backend, MetaStore, area_blocks};
use crate::image::space::Space;
use crate::image::superblock::{CHUNKS_MAX, Chunk, Superblock};
use redb::StorageBackend as _;
use std::sync::Arc;

/// Bytes copied at a time.
const STEP: u64 = 1 << 20;

/// Writes the rows of `examined` as a new database and returns the superblock that points at it.
/// `reader` is the image opened for reading.
pub fn rebuild(
    reader: &Arc<dyn Disk>,
    writer: &Arc<dyn Disk>,
    superblock: &Superblock,
    examined: &Examined,
) -> Result<Superblock> {
    let empty = Superblock { chunks: Vec::new(), metadata_bytes: 0, ..superblock.clone() };
    let built = Arc::new(MetaStore::new(reader.clone(), empty));
    guard("building the database", || {
        let db = redb::Database::builder().create_with_backend(Backend(built.clone()))?;
        write(&db, &examined.model)
    })?;
    let bytes = built.superblock().metadata_bytes;
    let space = free_blocks(examined, superblock.total_blocks);
    let chunks = allocate(&space, area_blocks(bytes))?;
    let next = Superblock { chunks, metadata_bytes: bytes, state: 0, ..superblock.clone() };
    let target = Backend(Arc::new(MetaStore::replace(writer.clone(), next, superblock)));
    copy(&Backend(built), bytes, &target)?;
    target.sync_data()?;
    target.0.update(|_| ())?;
    Ok(target.0.superblock())
}

fn allocate(space: &Space, mut missing: u64) -> Result<Vec<Chunk>> {
    let (mut chunks, mut logical) = (Vec::new(), 0);
    while missing > 0 {
        let run = space.allocate(missing, None);
        let Some(run) = run.filter(|_| chunks.len() < CHUNKS_MAX) else {
            let text = format!("no room for a new database: {missing} blocks are missing");
            return Err(Error::Corrupt(text));
        };
        missing -= run.blocks;
        chunks.push(Chunk { logical, start: run.start, blocks: run.blocks });
        logical += run.blocks;
    }
    Ok(chunks)
}

fn copy(from: &Backend, bytes: u64, to: &Backend) -> Result<()> {
    let mut at = 0;
    while at < bytes {
        let mut part = vec![0; (bytes - at).min(STEP) as usize];
        from.read(at, &mut part)?;
        to.write(at, &part)?;
        at += part.len() as u64;
    }
    Ok(())
}
