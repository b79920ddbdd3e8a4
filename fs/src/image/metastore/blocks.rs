//! Blocks of the database: where they are, and whether they are what was written.

use crate::image::BLOCK;
use crate::image::metastore::sums::{COVERED, block_at, checksum, stored, stored_sums};
use crate::image::metastore::{DAMAGED_KEPT, MetaStore, Rotten};
use crate::image::pages::Place;
use crate::image::pages::node::PAGE_BLOCKS_MAX;
use crate::image::superblock::Superblock;
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering::AcqRel;

const BYTES: usize = BLOCK as usize;

/// Blocks of the database that lie side by side in the image, or that nothing backs.
struct Stretch {
    blocks: Range<u64>,
    /// First block in the image.
    image: Option<u64>,
}

/// A page of the database.
pub struct Page {
    /// What is there.
    pub bytes: Vec<u8>,
    /// All blocks have their checksums.
    pub is_whole: bool,
}

impl MetaStore {
    /// A page that somebody led to; `None` when it cannot be one.
    ///
    /// # Errors
    /// Those of the disk that are not about single blocks.
    pub fn page(&self, place: Place) -> io::Result<Option<Page>> {
        let end = place.block.checked_add(place.blocks);
        let len = self.superblock.read().metadata_bytes / BLOCK;
        if place.blocks > PAGE_BLOCKS_MAX || end.is_none_or(|end| end > len) {
            return Ok(None);
        }
        let mut bytes = vec![0; (place.blocks * BLOCK) as usize];
        let met = self.damage_met();
        self.read_blocks(place.block, &mut bytes)?;
        Ok(Some(Page { bytes, is_whole: self.damage_met() == met }))
    }

    /// Blocks of the database that have a place in the image.
    pub fn backed(&self) -> impl Iterator<Item = u64> + use<> {
        let sb = self.superblock();
        let len = sb.metadata_bytes / BLOCK;
        let backed = sb.chunks.into_iter().flat_map(|c| c.logical..c.logical + c.blocks);
        backed.filter_map(block_at).take_while(move |block| *block < len)
    }

    /// Fills `out` from byte `offset` of the database; what no chunk backs is zeros.
    pub(super) fn read_bytes(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let aligned = offset.is_multiple_of(BLOCK) && out.len().is_multiple_of(BYTES);
        if aligned || out.is_empty() {
            return self.read_blocks(offset / BLOCK, out);
        }
        let (first, end) = (offset / BLOCK, (offset + out.len() as u64).div_ceil(BLOCK));
        let mut whole = vec![0; (end - first) as usize * BYTES];
        self.read_blocks(first, &mut whole)?;
        let from = (offset - first * BLOCK) as usize;
        out.copy_from_slice(&whole[from..from + out.len()]);
        Ok(())
    }

    /// Writes `data` at byte `offset` of the database.
    pub(super) fn write_bytes(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let aligned = offset.is_multiple_of(BLOCK) && data.len().is_multiple_of(BYTES);
        let (first, end) = (offset / BLOCK, (offset + data.len() as u64).div_ceil(BLOCK));
        if data.is_empty() {
            return Ok(());
        }
        if aligned {
            return self.write_blocks(first, data);
        }
        if end == 1 {
            return self.write_header(offset, data);
        }
        let mut whole = vec![0; (end - first) as usize * BYTES];
        self.read_blocks(first, &mut whole)?;
        let from = (offset - first * BLOCK) as usize;
        whole[from..from + data.len()].copy_from_slice(data);
        self.write_blocks(first, &whole)
    }

    /// The first block is changed in place by every commit, a few hundred bytes that fit a sector;
    /// redb has checksums in it.
    fn write_header(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.back(0, stored(0) + 1)?;
        let image = self.locate(stored(0)).ok_or(io::ErrorKind::NotFound)?;
        self.disk.write(image * BLOCK + offset, data)
    }

    fn read_blocks(&self, first: u64, out: &mut [u8]) -> io::Result<()> {
        let end = first + (out.len() / BYTES) as u64;
        let stretches = stretches(&self.superblock.read(), first..end);
        for Stretch { blocks, image } in stretches {
            let at = |block: u64| (block - first) as usize * BYTES;
            let part = &mut out[at(blocks.start)..at(blocks.end)];
            let Some(image) = image else {
                part.fill(0);
                continue;
            };
            // Block by block, when some of them cannot be read.
            let all = self.disk.read(image * BLOCK, part).is_ok();
            for (block, bytes) in blocks.clone().zip(part.chunks_exact_mut(BYTES)) {
                self.verify(block, image + (block - blocks.start), bytes, all)?;
            }
        }
        Ok(())
    }

    /// Compares a block that was read with its checksum; what is wrong is withheld, or shown.
    fn verify(&self, block: u64, image: u64, bytes: &mut [u8], was_read: bool) -> io::Result<()> {
        if was_read && self.is_good(block, bytes)? {
            return Ok(());
        }
        // A writer of this very block may have been between the two.
        let _alone = self.writing.write();
        let read = self.disk.read(image * BLOCK, bytes);
        if read.is_ok() && self.is_good(block, bytes)? {
            return Ok(());
        }
        let problem = read.err().map_or("does not have its checksum".into(), |e| e.to_string());
        tracing::error!(
            "{}: metadata block {block} (byte {} of the image): {problem}",
            self.disk.name().display(),
            image * BLOCK
        );
        self.damage_met.fetch_add(1, AcqRel);
        let mut damaged = self.damaged.lock();
        if damaged.len() < DAMAGED_KEPT {
            damaged.insert(block);
        }
        if self.rotten == Rotten::Withheld {
            bytes.fill(0);
        }
        Ok(())
    }

    /// Whether a block is what was written; one that was never written becomes zeros.
    fn is_good(&self, block: u64, bytes: &mut [u8]) -> io::Result<bool> {
        if block == 0 {
            return Ok(true);
        }
        let sum = self.sums.lock().get(block, |group, out| self.load_sums(group, out))?;
        if sum == 0 {
            bytes.fill(0);
            return Ok(true);
        }
        Ok(sum == checksum(&self.uuid, block, bytes))
    }

    fn write_blocks(&self, first: u64, data: &[u8]) -> io::Result<()> {
        let end = first + (data.len() / BYTES) as u64;
        // Their checksums too must have a place when they are flushed.
        self.back_sums(first..end)?;
        self.back(stored(first), stored(end - 1) + 1)?;
        let _shared = self.writing.read();
        let stretches = stretches(&self.superblock.read(), first..end);
        for Stretch { blocks, image } in stretches {
            let at = |block: u64| (block - first) as usize * BYTES;
            let part = &data[at(blocks.start)..at(blocks.end)];
            self.disk.write(image.ok_or(io::ErrorKind::NotFound)? * BLOCK, part)?;
            for (block, bytes) in blocks.zip(part.chunks_exact(BYTES)) {
                self.set_sum(block, checksum(&self.uuid, block, bytes))?;
            }
        }
        Ok(())
    }

    fn back_sums(&self, blocks: Range<u64>) -> io::Result<()> {
        (blocks.start / COVERED..=(blocks.end - 1) / COVERED)
            .try_for_each(|group| self.back(stored_sums(group), stored_sums(group) + 1))
    }

    /// Writes the checksums that changed. Whoever reads a block meanwhile does not wait for that.
    pub(super) fn flush_sums(&self) -> io::Result<()> {
        let _one = self.flushing.lock();
        let dirty = self.sums.lock().dirty();
        for group in dirty {
            let Some(bytes) = self.sums.lock().encode(group) else { continue };
            let image = self.locate(stored_sums(group)).ok_or(io::ErrorKind::NotFound)?;
            self.disk.write(image * BLOCK, &bytes)?;
            self.sums.lock().written(group, &bytes);
        }
        Ok(())
    }

    pub(super) fn set_sum(&self, block: u64, sum: u32) -> io::Result<()> {
        self.sums.lock().set(block, sum, |group, out| self.load_sums(group, out))
    }

    fn load_sums(&self, group: u64, out: &mut [u8]) -> io::Result<()> {
        match self.locate(stored_sums(group)) {
            Some(image) => self.disk.read(image * BLOCK, out),
            None => {
                out.fill(0);
                Ok(())
            }
        }
    }

    /// The block of the image that backs a block of the area.
    pub(super) fn locate(&self, stored: u64) -> Option<u64> {
        locate(&self.superblock.read(), stored)
    }
}

fn locate(sb: &Superblock, stored: u64) -> Option<u64> {
    let after = sb.chunks.partition_point(|c| c.logical <= stored);
    let chunk = after.checked_sub(1).map(|i| sb.chunks[i])?;
    let at = stored - chunk.logical;
    (at < chunk.blocks).then(|| chunk.start + at)
}

/// Cuts blocks of the database where they stop to lie side by side in the image.
fn stretches(sb: &Superblock, blocks: Range<u64>) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    for block in blocks {
        let image = locate(sb, stored(block));
        match all.last_mut() {
            Some(Stretch { blocks, image: last })
                if last.map(|i| i + (block - blocks.start)) == image =>
            {
                blocks.end = block + 1;
            }
            _ => all.push(Stretch { blocks: block..block + 1, image }),
        }
    }
    all
}
