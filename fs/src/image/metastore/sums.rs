//! The checksum of every block of the metadata area, beside it.
//!
//! A block of 1024 checksums goes before the 1024 blocks that it covers. The database is
//! copy-on-write: a checksum changes only for a block that no commit refers to yet, so a block of
//! checksums may be torn in sectors without harm to what is committed. 0 stands for a block that was
//! never written and reads as zeros, so a new piece of the area needs no zeroing.

use crate::image::BLOCK;
use std::collections::{BTreeSet, HashMap};
use std::io;

/// Blocks that one block of checksums covers: 4 MiB.
pub const COVERED: u64 = BLOCK / 4;
/// Blocks of checksums in memory before clean ones are forgotten: 16 MiB, for 16 GiB of metadata.
const KEPT: usize = 4096;

/// Where block `block` of the database lies in the area.
pub fn stored(block: u64) -> u64 {
    block / COVERED * (COVERED + 1) + 1 + block % COVERED
}

/// The block of the database that lies at block `stored` of the area; `None` for checksums.
pub fn block_at(stored: u64) -> Option<u64> {
    let (group, at) = (stored / (COVERED + 1), stored % (COVERED + 1));
    Some(group * COVERED + at.checked_sub(1)?)
}

/// Blocks of the area that hold a database of `bytes` bytes.
pub fn area_blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).checked_sub(1).map_or(0, |last| stored(last) + 1)
}

/// Where the checksums of group `group` lie in the area.
pub fn stored_sums(group: u64) -> u64 {
    group * (COVERED + 1)
}

/// The checksum of a block; never 0. It depends on the filesystem and on the place, so that a block
/// of an earlier filesystem, or one that was written to a wrong place, does not pass.
pub fn checksum(uuid: &[u8; 16], block: u64, bytes: &[u8]) -> u32 {
    let seed = crc32c::crc32c_append(crc32c::crc32c(uuid), &block.to_le_bytes());
    crc32c::crc32c_append(seed, bytes).max(1)
}

/// Checksums that are in memory.
#[derive(Debug, Default)]
pub struct Sums {
    groups: HashMap<u64, Box<[u32; COVERED as usize]>>,
    dirty: BTreeSet<u64>,
}

impl Sums {
    /// The checksum of a block; `load` fills a block of checksums from the image.
    pub fn get(
        &mut self,
        block: u64,
        load: impl FnOnce(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<u32> {
        Ok(self.group(block / COVERED, load)?[(block % COVERED) as usize])
    }

    /// Sets the checksum of a block.
    pub fn set(
        &mut self,
        block: u64,
        sum: u32,
        load: impl FnOnce(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let group = block / COVERED;
        self.group(group, load)?[(block % COVERED) as usize] = sum;
        self.dirty.insert(group);
        Ok(())
    }

    /// Nothing of a group was ever written: its block of checksums is new.
    pub fn begin(&mut self, group: u64) {
        self.groups.insert(group, Box::new([0; COVERED as usize]));
        self.dirty.insert(group);
    }

    /// Groups whose blocks of checksums are to be written.
    pub fn dirty(&self) -> Vec<u64> {
        self.dirty.iter().copied().collect()
    }

    /// The block of checksums of a group that is to be written.
    pub fn encode(&self, group: u64) -> Option<Vec<u8>> {
        let sums = self.groups.get(&group).filter(|_| self.dirty.contains(&group))?;
        Some(sums.iter().flat_map(|sum| sum.to_le_bytes()).collect())
    }

    /// A block of checksums was written; it is still to be written when it has changed since.
    pub fn written(&mut self, group: u64, bytes: &[u8]) {
        if self.encode(group).is_some_and(|now| now == bytes) {
            self.dirty.remove(&group);
        }
    }

    fn group(
        &mut self,
        group: u64,
        load: impl FnOnce(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<&mut [u32; COVERED as usize]> {
        if !self.groups.contains_key(&group) {
            if self.groups.len() >= KEPT {
                let dirty = &self.dirty;
                let mut left = KEPT / 8;
                self.groups.retain(|group, _| {
                    let drop = left > 0 && !dirty.contains(group);
                    left -= usize::from(drop);
                    !drop
                });
            }
            let mut bytes = vec![0; BLOCK as usize];
            load(group, &mut bytes)?;
            let mut sums = Box::new([0; COVERED as usize]);
            for (sum, bytes) in sums.iter_mut().zip(bytes.chunks_exact(4)) {
                *sum = u32::from_le_bytes(bytes.try_into().expect("chunks of 4"));
            }
            self.groups.insert(group, sums);
        }
        Ok(self.groups.get_mut(&group).expect("inserted above"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_their_checksums_do_not_share_places() {
        assert_eq!([stored(0), stored(1023), stored(1024)], [1, 1024, 1026]);
        assert_eq!([stored_sums(0), stored_sums(1)], [0, 1025]);
        assert_eq!([0, 1025].map(block_at), [None; 2]);
        assert_eq!(
            [0, 1, 1023, 1024, 5000].map(|b| block_at(stored(b))),
            [0, 1, 1023, 1024, 5000].map(Some)
        );
    }

    #[test]
    fn a_checksum_knows_its_filesystem_and_its_place() {
        let block = [7; BLOCK as usize];
        let sum = checksum(&[1; 16], 5, &block);
        assert_ne!(sum, checksum(&[2; 16], 5, &block));
        assert_ne!(sum, checksum(&[1; 16], 6, &block));
        assert_eq!(sum, checksum(&[1; 16], 5, &block));
    }

    #[test]
    fn what_changes_while_it_is_written_is_written_again() {
        let mut sums = Sums::default();
        sums.set(3, 9, |_, _| Ok(())).expect("set");
        assert_eq!(sums.dirty(), [0]);
        let bytes = sums.encode(0).expect("dirty");
        assert_eq!(bytes[12], 9);
        sums.set(4, 7, |_, _| Ok(())).expect("set");
        sums.written(0, &bytes);
        assert_eq!(sums.dirty(), [0], "it is not what was written");
        let bytes = sums.encode(0).expect("dirty");
        sums.written(0, &bytes);
        assert_eq!((sums.dirty(), sums.encode(0)), (vec![], None));
    }
}
