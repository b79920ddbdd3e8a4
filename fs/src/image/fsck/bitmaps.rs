//! The bitmaps as rows: a row for each group that is neither all free nor all used, and numbers of
//! free blocks for all that are not all free.

use crate::image::fsck::claims::Claims;
use crate::image::pins::{Pins, Run};
use crate::image::space::{COUNTS_GROUPS, GROUP_BLOCKS, Space};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const ROW_BYTES: usize = (GROUP_BLOCKS / 8) as usize;

/// Tables `groups` and `free`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmaps {
    /// Bits, by group.
    pub groups: BTreeMap<u64, Vec<u8>>,
    /// Numbers of free blocks, by number of [`COUNTS_GROUPS`] groups.
    pub free: BTreeMap<u64, Vec<u8>>,
}

/// What the rows say of a group.
pub enum Group {
    /// Its bits; those past the end of the filesystem are set.
    Bits(Vec<u8>),
    /// It should have a row, and has none of the right length.
    Missing,
}

impl Bitmaps {
    /// The rows for a filesystem of `total` blocks in which `claims` are used.
    pub fn of(claims: &Claims, total: u64) -> Bitmaps {
        let space = Space::new(total, Arc::new(Pins::default()));
        claims.runs().for_each(|run| space.claim(run));
        let rows = space.take_dirty();
        let some = |rows: Vec<(u64, Option<Vec<u8>>)>| {
            rows.into_iter().filter_map(|(key, row)| Some((key, row?))).collect()
        };
        Bitmaps { groups: some(rows.groups), free: some(rows.counts) }
    }

    /// Groups that are not all free, or have a row.
    pub fn touched(&self, total: u64) -> BTreeSet<u64> {
        let groups = total.div_ceil(GROUP_BLOCKS);
        let counted = self.free.iter().flat_map(|(index, row)| {
            let first = index.saturating_mul(COUNTS_GROUPS);
            first..first.saturating_add(row.len() as u64 / 2)
        });
        counted.chain(self.groups.keys().copied()).filter(|group| *group < groups).collect()
    }

    /// What the rows say of one group.
    pub fn group(&self, group: u64, total: u64) -> Group {
        let len = GROUP_BLOCKS.min(total - group * GROUP_BLOCKS);
        match self.count(group).unwrap_or(len) {
            0 => Group::Bits(vec![0xff; ROW_BYTES]),
            free if free == len => Group::Bits(filled(len)),
            _ => match self.groups.get(&group) {
                Some(row) if row.len() == ROW_BYTES => Group::Bits(row.clone()),
                _ => Group::Missing,
            },
        }
    }

    fn count(&self, group: u64) -> Option<u64> {
        let row = self.free.get(&(group / COUNTS_GROUPS))?;
        let at = (group % COUNTS_GROUPS) as usize * 2;
        Some(u64::from(u16::from_le_bytes([*row.get(at)?, *row.get(at + 1)?])))
    }

    /// Whether a block is used; one of a group without its row counts as used.
    pub fn is_used(&self, block: u64, total: u64) -> bool {
        match self.group(block / GROUP_BLOCKS, total) {
            Group::Bits(row) => is_set(&row, block % GROUP_BLOCKS),
            Group::Missing => true,
        }
    }

    /// Takes everything out of `space` that is used according to these rows.
    pub fn claim_in(&self, space: &Space, total: u64) {
        for group in self.touched(total) {
            let Group::Bits(row) = self.group(group, total) else { continue };
            let len = GROUP_BLOCKS.min(total - group * GROUP_BLOCKS);
            let mut at = 0;
            while at < len {
                let end = (at..len).find(|b| is_set(&row, *b) != is_set(&row, at)).unwrap_or(len);
                if is_set(&row, at) {
                    space.claim(Run { start: group * GROUP_BLOCKS + at, blocks: end - at });
                }
                at = end;
            }
        }
    }
}

fn is_set(row: &[u8], bit: u64) -> bool {
    row[(bit / 8) as usize] & (1 << (bit % 8)) != 0
}

/// A free group of `len` blocks.
fn filled(len: u64) -> Vec<u8> {
    let bit = |at: u64| if at < len { 0 } else { 1 };
    (0..ROW_BYTES as u64).map(|byte| (0..8).map(|i| bit(byte * 8 + i) << i).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::fsck::claims::Owner;

    #[test]
    fn rows_say_what_was_claimed() {
        let total = 40_000;
        let mut claims = Claims::default();
        for (start, blocks) in [(0, 1), (63, 2), (8190, 9000), (39_999, 1)] {
            claims.claim(Run { start, blocks }, Owner::Fixed).expect("free");
        }
        let maps = Bitmaps::of(&claims, total);
        // Groups 0 and 2 in part, 1 whole, 3 not at all, 4 its last block.
        assert_eq!(maps.groups.keys().copied().collect::<Vec<_>>(), [0, 2, 4]);
        for block in [0, 63, 64, 8190, 16_000, 17_189, 39_999] {
            assert!(maps.is_used(block, total), "{block}");
        }
        for block in [1, 62, 65, 8189, 17_190, 30_000, 39_998] {
            assert!(!maps.is_used(block, total), "{block}");
        }
        let space = Space::new(total, Arc::new(Pins::default()));
        maps.claim_in(&space, total);
        assert_eq!(space.usage().free, total - 9004);
    }
}
