//! A new database from the rows that a damaged one still gives.
//!
//! It is built in memory and copied to free blocks; only then do the superblocks point at it. A
//! crash at any moment leaves the old database or the new one.

use crate::disk::Disk;
use crate::errno::{Error, Result};
use crate::image::fsck::database::{Examined, free_blocks, write};
use crate::image::guard::guard;
use crate::image::metastore::{Backend, MetaStore};
use crate::image::space::{Class, Space};
use crate::image::superblock::{CHUNKS_MAX, Chunk, Superblock};
use crate::image::{BLOCK, blocks_for};
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
    let chunks = allocate(&space, blocks_for(bytes))?;
    copy(&Backend(built), bytes, &**writer, &chunks)?;
    writer.sync()?;
    let meta = MetaStore::new(writer.clone(), superblock.clone());
    meta.update(|sb| {
        sb.chunks = chunks;
        sb.metadata_bytes = bytes;
        sb.state = 0;
    })?;
    Ok(meta.superblock())
}

fn allocate(space: &Space, mut missing: u64) -> Result<Vec<Chunk>> {
    let (mut chunks, mut logical) = (Vec::new(), 0);
    while missing > 0 {
        let run = space.allocate(missing, None, Class::Metadata);
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

fn copy(from: &Backend, bytes: u64, to: &dyn Disk, chunks: &[Chunk]) -> Result<()> {
    let mut logical = 0;
    for chunk in chunks {
        let mut at = 0;
        while at < chunk.blocks * BLOCK {
            let mut block = vec![0; (chunk.blocks * BLOCK - at).min(STEP) as usize];
            // The last block may be longer than what is left of the database.
            let have = bytes.saturating_sub(logical + at).min(block.len() as u64) as usize;
            from.read(logical + at, &mut block[..have])?;
            to.write(chunk.start * BLOCK + at, &block)?;
            at += block.len() as u64;
        }
        logical += chunk.blocks * BLOCK;
    }
    Ok(())
}
