//! Changes a file below its filesystem: in the image, where its stamps are found by reading them.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, ensure};
use nix::unistd::{Whence, lseek64};

use crate::kit::stamp::{BLOCK, Stamp};

/// Data is aligned to this in every image that we know.
const STEP: u64 = 4096;
/// What is read at a time.
const PIECE: u64 = 1 << 20;

/// Overwrites every block of generation `old` of a file by the same block of generation `new`.
///
/// # Errors
/// A block is not found, or the image cannot be written.
pub fn rewrite(image: &Path, id: u64, len: u64, old: u32, new: u32) -> anyhow::Result<()> {
    let file = File::options().read(true).write(true).open(image);
    let file = file.with_context(|| image.display().to_string())?;
    let blocks = len.div_ceil(BLOCK as u64);
    let places = find(&file, id, old, blocks)?;
    ensure!(places.len() as u64 == blocks, "{} of {blocks} blocks are in the image", places.len());
    for (&block, &place) in &places {
        file.write_all_at(&Stamp { file: id, block, generation: new }.bytes(), place)?;
    }
    file.sync_data().context("sync the image")
}

/// Where each of the `blocks` blocks of a file's generation lies in an image. The allocator goes upwards, so
/// the search goes downwards, and ends with the last block that is missing.
fn find(image: &File, id: u64, generation: u32, blocks: u64) -> anyhow::Result<BTreeMap<u64, u64>> {
    let mut places = BTreeMap::new();
    let mut piece = vec![0; PIECE as usize];
    for data in pieces(image)?.into_iter().rev() {
        let part = &mut piece[..(data.end - data.start) as usize];
        image.read_exact_at(part, data.start).context("read the image")?;
        scan(part, data.start, id, generation, &mut places);
        if places.len() as u64 == blocks {
            break;
        }
    }
    Ok(places)
}

/// The data of an image, in parts of at most [`PIECE`].
fn pieces(image: &File) -> anyhow::Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    let (mut at, end) = (0, image.metadata()?.len());
    // Behind the last data lseek(2) answers ENXIO.
    while let Ok(data) = lseek64(image, at as i64, Whence::SeekData) {
        let hole = lseek64(image, data, Whence::SeekHole).map_or(end, |hole| hole as u64);
        at = data as u64 / STEP * STEP;
        while at < hole {
            let next = hole.min(at + PIECE);
            found.push(at..next);
            at = next;
        }
    }
    Ok(found)
}

fn scan(piece: &[u8], at: u64, id: u64, generation: u32, places: &mut BTreeMap<u64, u64>) {
    for (number, block) in piece.chunks_exact(BLOCK).enumerate() {
        // The cheap look first: an image is mostly other files.
        if block[8..16] != id.to_le_bytes() {
            continue;
        }
        if let Some(stamp) = Stamp::read(block)
            && (stamp.file, stamp.generation) == (id, generation)
        {
            places.insert(stamp.block, at + (number * BLOCK) as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::stamp::content;

    #[test]
    fn a_file_is_found_in_a_sparse_image_and_only_it_is_changed() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let file = image.as_file();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&content(5, 1, 0, 4096), 1 << 20).unwrap();
        file.write_all_at(&content(5, 1, 4096, 4096), 3 << 20).unwrap();
        file.write_all_at(&content(6, 1, 0, 4096), 5 << 20).unwrap();
        rewrite(image.path(), 5, 8192, 1, 2).unwrap();
        let read = |at| {
            let mut bytes = vec![0; 4096];
            file.read_exact_at(&mut bytes, at).unwrap();
            bytes
        };
        assert_eq!(read(3 << 20), content(5, 2, 4096, 4096));
        assert_eq!(read(5 << 20), content(6, 1, 0, 4096));
        assert!(rewrite(image.path(), 5, 8192, 1, 2).is_err(), "generation 1 is gone");
    }
}
