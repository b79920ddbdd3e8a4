//! Strips: what a reader saw of a range, block by block, beside what it might legally have seen. A fault says
//! in a sentence what was wrong; its strip shows where, and what was right around it.

use serde::{Deserialize, Serialize};

use crate::kit::stamp::{self, BLOCK, Block, Legal, POISON, Stamp};

/// Strips that are kept of one variant: what comes after them says the same again.
pub const MOST: usize = 8;

/// A judged range in which something was illegal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strip {
    /// What was judged, in the case's words.
    pub what: String,
    /// Contents that each of its bytes might have.
    pub legal: Vec<Legal>,
    /// The range in order, without gaps.
    pub parts: Vec<Part>,
}

/// Neighbouring blocks of which the same is to be said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// First byte, in the file.
    pub from: u64,
    /// Byte behind the last, in the file.
    pub to: u64,
    /// What they hold.
    pub seen: Seen,
    /// How many of the bytes are illegal.
    pub bad: u64,
}

/// What a block turned out to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Stamps.
    Stamp {
        /// File that they belong to.
        file: u64,
        /// Generation.
        generation: u32,
        /// How many blocks they are away from their place; 0 is where they belong.
        moved: i64,
    },
    /// Zeroes.
    Zero,
    /// Memory that nothing was read into.
    Poison,
    /// Several legal contents in one block.
    Mixed,
    /// Something else.
    Unknown {
        /// Its first illegal bytes, in hex.
        head: String,
    },
}

impl Strip {
    /// The strip of a range; `None` when all of it is legal.
    pub fn of(what: &str, data: &[u8], offset: u64, legal: &[Legal]) -> Option<Strip> {
        let blocks = stamp::blocks(data, offset, legal);
        if blocks.iter().all(|block| block.bad.is_none()) {
            return None;
        }
        let mut parts: Vec<Part> = Vec::new();
        for block in blocks {
            let part = Part::of(&block, data, offset, legal);
            match parts.last_mut() {
                Some(last) if last.seen == part.seen && (last.bad == 0) == (part.bad == 0) => {
                    last.to = part.to;
                    last.bad += part.bad;
                }
                _ => parts.push(part),
            }
        }
        Some(Strip { what: what.to_owned(), legal: legal.to_vec(), parts })
    }
}

impl Part {
    fn of(block: &Block, data: &[u8], offset: u64, legal: &[Legal]) -> Part {
        let at = offset + block.bytes.start as u64;
        let bytes = &data[block.bytes.clone()];
        let seen = match &block.bad {
            None => Seen::legal(bytes, at, legal),
            Some(bad) => Seen::illegal(bytes, &data[bad.first..block.bytes.end], at),
        };
        let bad = block.bad.as_ref().map_or(0, |bad| bad.count as u64);
        Part { from: at, to: at + bytes.len() as u64, seen, bad }
    }
}

impl Seen {
    fn legal(bytes: &[u8], at: u64, legal: &[Legal]) -> Seen {
        let found = legal.iter().find(|legal| legal.content(at, bytes.len()) == bytes);
        match found {
            Some(&Legal::Generation(file, generation)) => {
                Seen::Stamp { file, generation, moved: 0 }
            }
            Some(Legal::Hole(_) | Legal::Zero) => Seen::Zero,
            Some(Legal::Poison) => Seen::Poison,
            None => Seen::Mixed,
        }
    }

    fn illegal(bytes: &[u8], tail: &[u8], at: u64) -> Seen {
        if let Some(Stamp { file, block, generation }) =
            Stamp::read(bytes).or_else(|| stamp::partial(tail))
        {
            let moved = block.wrapping_sub(at / BLOCK as u64) as i64;
            return Seen::Stamp { file, generation, moved };
        }
        match tail {
            _ if tail.iter().all(|&byte| byte == POISON) => Seen::Poison,
            _ if tail.iter().all(|&byte| byte == 0) => Seen::Zero,
            _ => Seen::Unknown { head: stamp::hex(tail) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Legal = Legal::Generation(7, 1);
    const NEW: Legal = Legal::Generation(7, 2);

    fn stamps(generation: u32) -> Seen {
        Seen::Stamp { file: 7, generation, moved: 0 }
    }

    fn parts(data: &[u8], offset: u64, legal: &[Legal]) -> Vec<(u64, u64, Seen, bool)> {
        let strip = Strip::of("t", data, offset, legal).expect("something is illegal");
        strip.parts.into_iter().map(|part| (part.from, part.to, part.seen, part.bad > 0)).collect()
    }

    #[test]
    fn a_range_that_is_all_legal_has_no_strip() {
        assert_eq!(Strip::of("t", &stamp::content(7, 1, 100, 2000), 100, &[OLD]), None);
    }

    #[test]
    fn blocks_of_one_kind_are_one_part() {
        let mut data = stamp::content(7, 2, 0, 8 * BLOCK);
        data[2 * BLOCK..4 * BLOCK].copy_from_slice(&stamp::content(7, 1, 1024, 1024));
        data[4 * BLOCK..5 * BLOCK].fill(0);
        data[5 * BLOCK..6 * BLOCK].fill(POISON);
        let wanted = [
            (0, 1024, stamps(2), false),
            (1024, 2048, stamps(1), true),
            (2048, 2560, Seen::Zero, false),
            (2560, 3072, Seen::Poison, true),
            (3072, 4096, stamps(2), false),
        ];
        assert_eq!(parts(&data, 0, &[NEW, Legal::Zero]), wanted);
    }

    #[test]
    fn stamps_of_another_place_say_how_far_they_are_from_home() {
        let data = stamp::content(7, 1, 3 * 512, 1024);
        let moved = Seen::Stamp { file: 7, generation: 1, moved: 2 };
        assert_eq!(parts(&data, 512, &[OLD]), [(512, 1536, moved, true)]);
    }

    #[test]
    fn a_range_that_starts_and_ends_inside_blocks_is_covered_to_its_last_byte() {
        let mut data = stamp::content(7, 1, 300, 1000);
        data[999] = 0x42;
        let unknown = Seen::Unknown { head: "42".to_owned() };
        let wanted = [(300, 1024, stamps(1), false), (1024, 1300, unknown, true)];
        assert_eq!(parts(&data, 300, &[OLD]), wanted);
    }

    #[test]
    fn a_block_of_two_legal_contents_is_mixed() {
        let mut data = stamp::content(7, 1, 0, 1024);
        data[100..200].copy_from_slice(&stamp::content(7, 2, 100, 100));
        data[1023] ^= 1;
        let seen = &parts(&data, 0, &[OLD, NEW])[0];
        assert_eq!(seen, &(0, 512, Seen::Mixed, false));
    }
}
