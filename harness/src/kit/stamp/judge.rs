//! The judge: what a reader saw, byte by byte against a list of legal contents.

use serde::{Deserialize, Serialize};

use super::{BLOCK, POISON, Stamp, content, hex, partial};
use crate::kit::verdict::{Class, Fault};

/// A content that a range may legally have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Legal {
    /// Stamps of this file and generation.
    Generation(u64, u32),
    /// Zeroes of a file: a hole, or the space behind its end.
    Hole(u64),
    /// Zeroes that are no file's.
    Zero,
    /// Untouched memory.
    Poison,
}

impl Legal {
    /// The bytes of a range that has this content.
    pub fn content(self, offset: u64, len: usize) -> Vec<u8> {
        match self {
            Legal::Generation(file, generation) => content(file, generation, offset, len),
            Legal::Hole(_) | Legal::Zero => vec![0; len],
            Legal::Poison => vec![POISON; len],
        }
    }
}

/// Judges `data`, which is what a reader saw of the file from `offset` on. Every byte must be legal.
pub fn judge(what: &str, data: &[u8], offset: u64, legal: &[Legal]) -> Vec<Fault> {
    let fault = |block: &Block| {
        let bad = block.bad.as_ref()?;
        let place = offset as usize + bad.first;
        let number = (place / BLOCK) as u64;
        let (class, seen) = classify(number, data, offset, block, bad, legal);
        let wanted: Vec<_> = legal.iter().map(|legal| describe(*legal)).collect();
        let text = format!(
            "{what}: byte {place}: {} of {} bytes are {seen}; legal: {}",
            bad.count,
            block.bytes.len(),
            wanted.join(" or ")
        );
        Some(Fault { class, text })
    };
    condense(what, blocks(data, offset, legal).iter().filter_map(fault).collect())
}

/// A block of a judged range, or what the range holds of it.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// Its bytes in the range.
    pub bytes: std::ops::Range<usize>,
    /// What is illegal in it.
    pub bad: Option<Bad>,
}

/// The illegal bytes of a block.
#[derive(Clone, Debug)]
pub(crate) struct Bad {
    /// The first, in the range.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// All of them, in the range.
    places: Vec<usize>,
}

/// Cuts a range at the borders of the file's blocks and looks for illegal bytes in each part.
pub(crate) fn blocks(data: &[u8], offset: u64, legal: &[Legal]) -> Vec<Block> {
    let contents: Vec<Vec<u8>> =
        legal.iter().map(|legal| legal.content(offset, data.len())).collect();
    let is_legal = |at: usize| contents.iter().any(|content| content[at] == data[at]);
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let end = (at + BLOCK - ((offset as usize + at) % BLOCK)).min(data.len());
        let places: Vec<usize> = (at..end).filter(|&at| !is_legal(at)).collect();
        let bad = places.first().copied().map(|first| Bad { first, count: places.len(), places });
        blocks.push(Block { bytes: at..end, bad });
        at = end;
    }
    blocks
}

/// Keeps the first fault of each class and says how many blocks had it.
fn condense(what: &str, faults: Vec<Fault>) -> Vec<Fault> {
    let mut kept: Vec<(Fault, usize)> = Vec::new();
    for fault in faults {
        match kept.iter_mut().find(|(first, _)| first.class == fault.class) {
            Some((_, count)) => *count += 1,
            None => kept.push((fault, 1)),
        }
    }
    let more = |(mut fault, count): (Fault, usize)| {
        if count > 1 {
            fault.text += &format!(" ({count} blocks of {what})");
        }
        fault
    };
    kept.into_iter().map(more).collect()
}

/// The file that a range is of, by what may be in it; and the youngest generation that may.
fn owner(legal: &[Legal]) -> Option<(u64, u32)> {
    let generations = legal.iter().filter_map(|legal| match *legal {
        Legal::Generation(file, generation) => Some((file, generation)),
        _ => None,
    });
    let hole = legal.iter().find_map(|legal| match *legal {
        Legal::Hole(file) => Some((file, 0)),
        _ => None,
    });
    generations.max_by_key(|(_, generation)| *generation).or(hole)
}

/// What an illegal block is, which should be the file's block `number`.
fn classify(
    number: u64,
    data: &[u8],
    offset: u64,
    block: &Block,
    bad: &Bad,
    legal: &[Legal],
) -> (Class, String) {
    let (whole, tail) = (&data[block.bytes.clone()], &data[bad.first..block.bytes.end]);
    let owner = owner(legal);
    if let Some(stamp) = Stamp::read(whole).or_else(|| owner.and_then(|_| partial(tail))) {
        return classify_stamp(number, stamp, owner, legal);
    }
    let illegal: Vec<u8> = bad.places.iter().map(|&at| data[at]).collect();
    if illegal.iter().all(|&byte| byte == POISON) {
        return (Class::Lost, "poison (never written)".to_owned());
    }
    if illegal.iter().all(|&byte| byte == 0) {
        return (Class::Lost, "zero".to_owned());
    }
    if let Some(torn) = owner.and_then(|owner| torn(data, offset, bad, owner, legal)) {
        return torn;
    }
    if legal.contains(&Legal::Poison) && owner.is_none() {
        return (Class::Leak, format!("data ({})", hex(tail)));
    }
    (Class::Foreign, format!("unknown ({})", hex(tail)))
}

/// Fewest bytes by which a generation is recognised in a block that is not whole.
const RECOGNISED: usize = 8;
/// Generations younger than what is legal, and in all, that a torn block is searched for.
const YOUNGER: u32 = 8;
const SEARCHED: u32 = 64;

/// Whether a block that is no one stamp is made of the right file's own, of one illegal generation at its right place
/// beside zeroes, poison and what is legal: not another file's data.
fn torn(
    data: &[u8],
    offset: u64,
    bad: &Bad,
    (file, youngest): (u64, u32),
    legal: &[Legal],
) -> Option<(Class, String)> {
    let is_data = |&&at: &&usize| !matches!(data[at], 0 | POISON);
    let strange: Vec<usize> = bad.places.iter().filter(is_data).copied().collect();
    let (first, last) = (*strange.first()?, *strange.last()?);
    let last_generation = youngest + YOUNGER;
    let generations = last_generation.saturating_sub(SEARCHED)..=last_generation;
    let generation = generations.rev().find(|&generation| {
        let wanted = content(file, generation, offset + first as u64, last - first + 1);
        strange.len() >= RECOGNISED && strange.iter().all(|&at| data[at] == wanted[at - first])
    })?;
    let is_hole = !legal.iter().any(|legal| matches!(legal, Legal::Generation(..)));
    let class = if is_hole { Class::Resurrected } else { Class::Stale };
    let lost = bad.places.len() - strange.len();
    let seen = format!(
        "torn: {} of file {file} generation {generation}, {lost} zero or poison",
        strange.len()
    );
    Some((class, seen))
}

fn classify_stamp(
    number: u64,
    stamp: Stamp,
    owner: Option<(u64, u32)>,
    legal: &[Legal],
) -> (Class, String) {
    let Stamp { file, block, generation } = stamp;
    let seen = format!("file {file} block {block} generation {generation}");
    let is_hole = !legal.iter().any(|legal| matches!(legal, Legal::Generation(..)));
    let class = match owner {
        None if legal.contains(&Legal::Poison) => Class::Leak,
        None => Class::Foreign,
        Some((wanted, _)) if wanted != file || block != number => Class::Foreign,
        Some(_) if is_hole => Class::Resurrected,
        Some(_) => Class::Stale,
    };
    (class, seen)
}

/// A content in words.
pub fn describe(legal: Legal) -> String {
    match legal {
        Legal::Generation(file, generation) => format!("file {file} generation {generation}"),
        Legal::Hole(_) | Legal::Zero => "zero".to_owned(),
        Legal::Poison => "poison".to_owned(),
    }
}
