//! What a file may hold after a power cut.

use crate::reference::model::{Ino, Model};
use inflight::disk::SECTOR;

/// Each sector of `content` is what it was at some time in `models`, or on its way from one of them
/// to the next: an operation may write a part of a sector first, for instance the zeros around the
/// data in a new block. Bytes beyond the end of the file were zeros.
pub fn content_is_legal(content: &[u8], ino: Ino, models: &[Model]) -> Result<(), String> {
    let old: Vec<&[u8]> = models
        .iter()
        .filter_map(|model| model.nodes.get(&ino)?.content().map(|content| &content[..]))
        .collect();
    for (at, bytes) in content.chunks(SECTOR as usize).enumerate() {
        let from = at * SECTOR as usize;
        let byte = |version: &[u8], i: usize| version.get(from + i).copied().unwrap_or(0);
        let between = |i: usize| {
            let (one, next) = (old[i], old[(i + 1).min(old.len() - 1)]);
            let there = one.len().max(next.len()) > from;
            there && (0..bytes.len()).all(|i| [byte(one, i), byte(next, i)].contains(&bytes[i]))
        };
        if !(0..old.len()).any(between) {
            let head = &bytes[..bytes.len().min(8)];
            return Err(format!("bytes from {from} on ({head:02x?}...) were never there"));
        }
    }
    Ok(())
}
