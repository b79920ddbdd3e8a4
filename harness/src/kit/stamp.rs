//! Stamps: file content that says of itself what it is, and the judge that reads it.
//!
//! Each 512-byte block carries magic, file id, block number, generation and a CRC-32C over all of it;
//! the rest is a pattern that follows from those, so every single byte can be checked. A byte is legal
//! only when one of an explicit set of contents has that byte at that place. Memory is filled with
//! [`POISON`] first, which no stamp consists of.
//!
//! ```text
//!  0        8        16       24   28   32                    512
//!  | magic  | file   | block  | gen| crc| pattern ...          |
//! ```

mod judge;

pub(crate) use judge::{Block, blocks};
pub use judge::{Legal, describe, judge};

/// Bytes of a stamped block.
pub const BLOCK: usize = 512;

/// What memory is filled with before it is read into.
pub const POISON: u8 = 0xE7;

/// What memory in other use is filled with, where late data must not arrive.
pub const CANARY: u8 = 0xCA;

const MAGIC: [u8; 8] = *b"INFLSTMP";
const CRC_AT: usize = 28;
const HEAD: usize = 32;

/// What a stamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// File that the block belongs to.
    pub file: u64,
    /// Its number in the file, in [`BLOCK`]s.
    pub block: u64,
    /// How often the file was rewritten before.
    pub generation: u32,
}

impl Stamp {
    /// The block that carries this stamp.
    pub fn bytes(self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(&MAGIC);
        block[8..16].copy_from_slice(&self.file.to_le_bytes());
        block[16..24].copy_from_slice(&self.block.to_le_bytes());
        block[24..28].copy_from_slice(&self.generation.to_le_bytes());
        let mut state = self.file.rotate_left(40) ^ (self.block << 8) ^ u64::from(self.generation);
        for chunk in block[HEAD..].chunks_mut(8) {
            state = mix(state);
            chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
        }
        // Bytes that mean something else are never part of the pattern.
        for byte in &mut block[HEAD..] {
            if matches!(*byte, 0 | POISON) {
                *byte = 0x55;
            }
        }
        let crc = crc32c::crc32c(&block);
        block[CRC_AT..HEAD].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Reads the stamp of a whole block; `None` when its CRC or magic is wrong.
    pub fn read(block: &[u8]) -> Option<Stamp> {
        let block: &[u8; BLOCK] = block.try_into().ok()?;
        let word = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("8 bytes"));
        let generation = u32::from_le_bytes(block[24..28].try_into().expect("4 bytes"));
        let stamp = Stamp { file: word(8), block: word(16), generation };
        (block[..8] == MAGIC && stamp.bytes() == *block).then_some(stamp)
    }
}

/// SplitMix64: a pattern that differs in most bytes between neighbouring stamps.
fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

/// The bytes of a stamped file from `offset` on; any offset, any length.
pub fn content(file: u64, generation: u32, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 2 * BLOCK);
    let (first, skip) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
    let mut block = first;
    while bytes.len() < skip + len {
        bytes.extend_from_slice(&Stamp { file, block, generation }.bytes());
        block += 1;
    }
    bytes[skip..skip + len].to_vec()
}

/// A block that is cut by the end of the range: recognised by its magic alone.
pub(crate) fn partial(tail: &[u8]) -> Option<Stamp> {
    let head = tail.len() >= CRC_AT && tail.len() < BLOCK && tail[..8] == MAGIC;
    if !head {
        return None;
    }
    let word = |at: usize| u64::from_le_bytes(tail[at..at + 8].try_into().expect("8 bytes"));
    let generation = u32::from_le_bytes(tail[24..28].try_into().expect("4 bytes"));
    Some(Stamp { file: word(8), block: word(16), generation })
}

/// The first eight bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::verdict::Class;

    const OLD: Legal = Legal::Generation(7, 1);
    const NEW: Legal = Legal::Generation(7, 2);

    fn classes(data: &[u8], offset: u64, legal: &[Legal]) -> Vec<Class> {
        judge("t", data, offset, legal).iter().map(|fault| fault.class).collect()
    }

    #[test]
    fn a_stamp_reads_back_and_a_flipped_bit_does_not() {
        let stamp = Stamp { file: 7, block: 3, generation: 2 };
        let mut block = stamp.bytes();
        assert_eq!(Stamp::read(&block), Some(stamp));
        for at in 0..BLOCK {
            block[at] ^= 1;
            assert_eq!(Stamp::read(&block), None, "byte {at}");
            block[at] ^= 1;
        }
    }

    #[test]
    fn a_stamp_has_no_poison_and_no_zero_in_its_pattern() {
        let bytes = content(1, 1, 0, 64 * BLOCK);
        for block in bytes.chunks(BLOCK) {
            assert!(block[HEAD..].iter().all(|byte| ![0, POISON].contains(byte)));
        }
    }

    #[test]
    fn content_is_the_same_from_any_offset() {
        let whole = content(7, 1, 0, 4 * BLOCK);
        assert_eq!(content(7, 1, 700, 900), &whole[700..1600]);
    }

    #[test]
    fn legal_contents_pass_also_when_they_are_mixed() {
        let mut data = content(7, 1, 0, 2048);
        assert_eq!(classes(&data, 0, &[OLD]), []);
        data[100..600].copy_from_slice(&content(7, 2, 100, 500));
        assert_eq!(classes(&data, 0, &[OLD, NEW]), []);
        assert_eq!(classes(&data[100..600], 100, &[NEW]), []);
    }

    #[test]
    fn every_class_is_told_apart() {
        let old = content(7, 1, 0, 1024);
        assert_eq!(classes(&old, 0, &[NEW]), [Class::Stale]);
        assert_eq!(classes(&old, 0, &[Legal::Hole(7)]), [Class::Resurrected]);
        assert_eq!(classes(&old, 0, &[Legal::Hole(8)]), [Class::Foreign], "another file's hole");
        assert_eq!(classes(&old, 512, &[Legal::Hole(7)]), [Class::Foreign], "another place");
        assert_eq!(classes(&old, 0, &[Legal::Zero]), [Class::Foreign], "no file's zeroes");
        assert_eq!(classes(&old, 0, &[Legal::Poison]), [Class::Leak]);
        assert_eq!(classes(&old, 512, &[OLD]), [Class::Foreign], "the right file, another place");
        assert_eq!(classes(&content(7, 3, 0, 512), 512, &[OLD]), [Class::Foreign], "another place");
        assert_eq!(classes(&content(8, 1, 0, 512), 0, &[OLD, Legal::Zero]), [Class::Foreign]);
        assert_eq!(classes(&[POISON; 512], 0, &[OLD]), [Class::Lost]);
        assert_eq!(classes(&[0; 512], 0, &[OLD]), [Class::Lost]);
        assert_eq!(classes(&[0x42; 512], 0, &[OLD]), [Class::Foreign]);
    }

    #[test]
    fn a_torn_block_of_the_right_file_is_not_foreign_and_one_of_another_file_is() {
        // The first half is legal, the second is older, younger, poison or somebody else's.
        let torn = |file, generation| {
            let mut data = content(7, 2, 512, 512);
            data[256..].copy_from_slice(&content(file, generation, 512 + 256, 256));
            data
        };
        assert_eq!(classes(&torn(7, 1), 512, &[NEW]), [Class::Stale]);
        assert_eq!(classes(&torn(7, 3), 512, &[NEW]), [Class::Stale]);
        assert_eq!(classes(&torn(8, 1), 512, &[NEW]), [Class::Foreign]);
        let mut mixed = torn(7, 1);
        mixed[300..340].fill(POISON);
        mixed[400..440].fill(0);
        assert_eq!(classes(&mixed, 512, &[NEW]), [Class::Stale]);
        let mut lost = content(7, 2, 512, 512);
        lost[300..340].fill(POISON);
        assert_eq!(classes(&lost, 512, &[NEW]), [Class::Lost], "legal bytes on both sides");
        let mut hole = vec![0; 512];
        hole[256..].copy_from_slice(&content(7, 1, 512 + 256, 256));
        assert_eq!(classes(&hole, 512, &[Legal::Hole(7)]), [Class::Resurrected]);
        assert_eq!(classes(&hole, 512, &[Legal::Hole(8)]), [Class::Foreign]);
        // The right file's bytes at another place of it.
        let mut moved = content(7, 2, 512, 512);
        moved[256..].copy_from_slice(&content(7, 2, 4096 + 256, 256));
        assert_eq!(classes(&moved, 512, &[NEW]), [Class::Foreign]);
    }

    #[test]
    fn one_bad_byte_is_found_wherever_it_is() {
        for at in 0..1024 {
            let mut data = content(7, 1, 0, 1024);
            data[at] ^= 0x10;
            assert_eq!(judge("t", &data, 0, &[OLD]).len(), 1, "byte {at}");
        }
    }

    #[test]
    fn an_unaligned_range_is_judged_to_its_last_byte() {
        let mut data = content(7, 1, 300, 1000);
        data[999] = POISON;
        assert_eq!(classes(&data, 300, &[OLD]), [Class::Lost]);
    }
}
