//! The bitmap of one allocation group: one bit a block, 1 = taken.

use crate::image::space::GROUP_BLOCKS;

const WORDS: usize = (GROUP_BLOCKS / 64) as usize;

/// The blocks of one group, numbered from 0.
#[derive(Clone, PartialEq, Eq)]
pub struct Bits([u64; WORDS]);

impl Bits {
    /// A group of `len` blocks that are all free, or all taken. What lies past `len` is taken.
    pub fn filled(taken: bool, len: u64) -> Bits {
        let mut bits = Bits([if taken { u64::MAX } else { 0 }; WORDS]);
        bits.set(len, GROUP_BLOCKS, true);
        bits
    }

    /// From a row of the database; a short row counts as free where it ends.
    pub fn decode(row: &[u8], len: u64) -> Bits {
        let mut bits = Bits::filled(false, len);
        for (word, bytes) in bits.0.iter_mut().zip(row.chunks_exact(8)) {
            *word |= u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
        }
        bits
    }

    /// The row as it is stored.
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// Number of free blocks.
    pub fn free(&self) -> u64 {
        self.0.iter().map(|w| u64::from(w.count_zeros())).sum()
    }

    /// Whether a block is taken.
    pub fn get(&self, block: u64) -> bool {
        self.0[(block / 64) as usize] & (1 << (block % 64)) != 0
    }

    /// Sets or clears `[from, to)`; returns how many bits changed.
    pub fn set(&mut self, from: u64, to: u64, taken: bool) -> u64 {
        let (mut at, mut changed) = (from, 0);
        while at < to {
            let (word, bit) = ((at / 64) as usize, at % 64);
            let n = (64 - bit).min(to - at);
            let mask = (u64::MAX >> (64 - n)) << bit;
            let old = self.0[word];
            self.0[word] = if taken { old | mask } else { old & !mask };
            changed += u64::from((old ^ self.0[word]).count_ones());
            at += n;
        }
        changed
    }

    /// The first free block at or after `at`.
    pub fn next_free(&self, at: u64) -> Option<u64> {
        self.next(at, |word| !word)
    }

    /// The first taken block at or after `at`.
    pub fn next_taken(&self, at: u64) -> Option<u64> {
        self.next(at, |word| word)
    }

    fn next(&self, at: u64, wanted: impl Fn(u64) -> u64) -> Option<u64> {
        let mut from = at;
        while from < GROUP_BLOCKS {
            let word = wanted(self.0[(from / 64) as usize]) & (u64::MAX << (from % 64));
            if word != 0 {
                return Some(from / 64 * 64 + u64::from(word.trailing_zeros()));
            }
            from = (from / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_set_found_and_counted_across_words() {
        let mut bits = Bits::filled(false, 8000);
        assert_eq!(bits.free(), 8000);
        assert_eq!(bits.set(60, 200, true), 140);
        assert_eq!(bits.set(100, 210, true), 10);
        assert_eq!((bits.next_taken(0), bits.next_free(60)), (Some(60), Some(210)));
        assert_eq!((bits.get(59), bits.get(60)), (false, true));
        assert_eq!(bits.next_taken(210), Some(8000), "past the end is taken");
        assert_eq!(Bits::decode(&bits.encode(), 8000).free(), 8000 - 150);
        assert_eq!(Bits::filled(true, 8000).next_free(0), None);
    }
}
