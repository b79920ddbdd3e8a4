//! Where the blocks of one file are: a sorted map of runs, the same in memory as in the database.

use crate::image::pins::Run;
use crate::image::tables::Extent;
use std::collections::BTreeMap;

/// One past the last logical block that a file can have: sizes end at 2^63 - 1.
pub const BLOCK_MAX: u64 = 1 << 51;

/// The extents of a file, keyed by their first logical block; they never overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentMap {
    map: BTreeMap<u64, Extent>,
}

/// What changes did: rows to write or delete, and blocks that left the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// What becomes of each row that changed; `None` deletes it.
    pub rows: BTreeMap<u64, Option<Extent>>,
    /// Blocks that nothing refers to any more.
    pub freed: Vec<Run>,
}

/// A part of a logical range: mapped to an extent or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First logical block.
    pub logical: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// The extent cut to this piece; `None` in a hole.
    pub extent: Option<Extent>,
}

impl Piece {
    /// The extent if it holds data.
    pub fn written(&self) -> Option<Extent> {
        self.extent.filter(|e| !e.unwritten)
    }
}

impl ExtentMap {
    /// Adds a row that was read from the database; `false` when it overlaps an earlier one.
    pub fn load(&mut self, logical: u64, extent: Extent) -> bool {
        let before = self.map.last_key_value().is_none_or(|(l, e)| l + e.blocks <= logical);
        let sane = extent.blocks > 0 && logical < BLOCK_MAX && extent.blocks <= BLOCK_MAX - logical;
        if before && sane {
            self.map.insert(logical, extent);
        }
        before && sane
    }

    /// Number of extents.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// True when nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Every extent with its first logical block.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Extent)> + '_ {
        self.map.iter().map(|(l, e)| (*l, *e))
    }

    /// Allocated blocks.
    pub fn blocks(&self) -> u64 {
        self.map.values().map(|e| e.blocks).sum()
    }

    /// The extent that covers `logical` or the first one after it.
    fn from(&self, logical: u64) -> impl Iterator<Item = (u64, Extent)> + '_ {
        let first = self
            .map
            .range(..=logical)
            .next_back()
            .filter(|(l, e)| *l + e.blocks > logical)
            .map_or(logical, |(l, _)| *l);
        self.map.range(first..).map(|(l, e)| (*l, *e))
    }

    /// The extents and holes of `[from, to)`, in order and without gaps.
    pub fn pieces(&self, from: u64, to: u64) -> Vec<Piece> {
        let (mut pieces, mut at) = (Vec::new(), from);
        for (logical, extent) in self.from(from) {
            if logical >= to {
                break;
            }
            if logical > at {
                pieces.push(Piece { logical: at, blocks: logical - at, extent: None });
                at = logical;
            }
            let end = (logical + extent.blocks).min(to);
            let cut = Extent { start: extent.start + (at - logical), blocks: end - at, ..extent };
            pieces.push(Piece { logical: at, blocks: end - at, extent: Some(cut) });
            at = end;
        }
        if at < to {
            pieces.push(Piece { logical: at, blocks: to - at, extent: None });
        }
        pieces
    }

    /// Where the blocks that follow `logical` would best be: behind those that precede it.
    pub fn goal(&self, logical: u64) -> Option<u64> {
        let (l, e) = self.map.range(..logical).next_back()?;
        Some(e.start + (logical - l))
    }

    /// First logical block at or after `from` that is (`data`) or is not (`!data`) written.
    /// `None` when there is none before the end of the map.
    pub fn seek(&self, from: u64, data: bool) -> Option<u64> {
        let mut at = from;
        for (logical, extent) in self.from(from).filter(|(_, e)| !e.unwritten) {
            if data {
                return Some(logical.max(from));
            }
            if logical > at {
                return Some(at);
            }
            at = logical + extent.blocks;
        }
        (!data).then_some(at)
    }

    /// Unmaps `[from, to)`.
    pub fn remove(&mut self, from: u64, to: u64) -> Change {
        let mut change = Change::default();
        let hit: Vec<(u64, Extent)> = self.from(from).take_while(|(l, _)| *l < to).collect();
        for (logical, extent) in hit {
            self.map.remove(&logical);
            let end = logical + extent.blocks;
            let (cut_from, cut_to) = (from.max(logical), to.min(end));
            change.freed.push(Run {
                start: extent.start + (cut_from - logical),
                blocks: cut_to - cut_from,
            });
            if logical < from {
                self.put(&mut change, logical, Extent { blocks: from - logical, ..extent });
            } else {
                change.rows.insert(logical, None);
            }
            if end > to {
                let start = extent.start + (to - logical);
                self.put(&mut change, to, Extent { start, blocks: end - to, ..extent });
            }
        }
        change
    }

    /// Maps `[logical, logical + extent.blocks)` to `extent`; what was there before is freed,
    /// except where it is the very same blocks. Neighbours that continue each other are joined.
    pub fn insert(&mut self, logical: u64, extent: Extent) -> Change {
        let end = logical + extent.blocks;
        let mut change = self.remove(logical, end);
        change.freed.retain(|run| run.end() <= extent.start || run.start >= extent.end());
        let (mut first, mut joined) = (logical, extent);
        if let Some((l, e)) = self.map.range(..logical).next_back().map(|(l, e)| (*l, *e))
            && l + e.blocks == logical
            && continues(&e, &extent)
        {
            self.map.remove(&l);
            (first, joined) = (l, Extent { start: e.start, blocks: e.blocks + joined.blocks, ..e });
        }
        if let Some(e) = self.map.get(&end).copied()
            && continues(&joined, &e)
        {
            self.map.remove(&end);
            change.rows.insert(end, None);
            joined.blocks += e.blocks;
        }
        self.put(&mut change, first, joined);
        change
    }

    fn put(&mut self, change: &mut Change, logical: u64, extent: Extent) {
        self.map.insert(logical, extent);
        change.rows.insert(logical, Some(extent));
    }
}

impl Change {
    /// Adds a later change.
    pub fn append(&mut self, later: Change) {
        self.rows.extend(later.rows);
        self.freed.extend(later.freed);
    }
}

fn continues(a: &Extent, b: &Extent) -> bool {
    a.end() == b.start && a.unwritten == b.unwritten
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ext(start: u64, blocks: u64) -> Extent {
        Extent { start, blocks, unwritten: false }
    }

    #[test]
    fn appending_extends_one_row() {
        let mut m = ExtentMap::default();
        m.insert(0, ext(100, 4));
        let change = m.insert(4, ext(104, 4));
        assert_eq!(change.rows, BTreeMap::from([(0, Some(ext(100, 8)))]));
        assert!(change.freed.is_empty());
        assert_eq!(m.goal(8), Some(108));
    }

    #[test]
    fn writing_into_a_preallocated_run_splits_it_and_frees_nothing() {
        let mut m = ExtentMap::default();
        m.insert(0, Extent { unwritten: true, ..ext(100, 10) });
        let change = m.insert(4, ext(104, 2));
        assert!(change.freed.is_empty());
        assert_eq!(m.len(), 3);
        assert_eq!(m.seek(0, true), Some(4));
        assert_eq!(m.seek(4, false), Some(6));
        assert_eq!(m.seek(6, true), None);
    }

    /// Applies changes the way the database does.
    fn apply(rows: &mut BTreeMap<u64, Extent>, change: &Change) {
        for (key, extent) in &change.rows {
            match extent {
                Some(extent) => drop(rows.insert(*key, *extent)),
                None => drop(rows.remove(key)),
            }
        }
    }

    proptest! {
        /// The map, its rows and a plain array of blocks agree after any sequence of changes, and
        /// every block that left the file is reported freed exactly once.
        #[test]
        fn the_map_agrees_with_an_array(ops in prop::collection::vec(
            (0u8..3, 0u64..60, 1u64..20), 1..60))
        {
            let (mut map, mut rows) = (ExtentMap::default(), BTreeMap::new());
            let mut model: Vec<Option<(u64, bool)>> = vec![None; 100];
            let mut next = 1000;
            for (op, at, n) in ops {
                let before: Vec<u64> = model.iter().flatten().map(|(b, _)| *b).collect();
                let change = if op == 2 {
                    model[at as usize..(at + n) as usize].fill(None);
                    map.remove(at, at + n)
                } else {
                    let e = Extent { start: next, blocks: n, unwritten: op == 1 };
                    next += n + u64::from(n % 3 == 0);
                    for i in 0..n {
                        model[(at + i) as usize] = Some((e.start + i, e.unwritten));
                    }
                    map.insert(at, e)
                };
                apply(&mut rows, &change);
                let after: Vec<u64> = model.iter().flatten().map(|(b, _)| *b).collect();
                let mut gone: Vec<u64> =
                    before.iter().copied().filter(|b| !after.contains(b)).collect();
                let mut freed: Vec<u64> =
                    change.freed.iter().flat_map(|r| r.start..r.end()).collect();
                gone.sort_unstable();
                freed.sort_unstable();
                prop_assert_eq!(gone, freed);
            }
            let mut loaded = ExtentMap::default();
            for (l, e) in &rows {
                prop_assert!(loaded.load(*l, *e));
            }
            prop_assert_eq!(&loaded, &map);
            let mut seen = Vec::new();
            for piece in map.pieces(0, 100) {
                for i in 0..piece.blocks {
                    seen.push(piece.extent.map(|e| (e.start + i, e.unwritten)));
                }
            }
            prop_assert_eq!(seen, model);
        }
    }
}
