//! Which blocks have an owner.
//!
//! Only that, not who it is: a bit a block, and none for a group that is all free or all taken.

use crate::image::pins::Run;
use crate::image::space::GROUP_BLOCKS;
use crate::image::space::bits::Bits;
use std::collections::HashMap;

/// Blocks with owners.
pub struct Claims {
    total: u64,
    groups: HashMap<u64, Group>,
    blocks: u64,
}

/// A group that is not all free.
enum Group {
    Full,
    /// Its bits, and the number of free blocks.
    Part(Box<Bits>, u64),
}

impl Claims {
    /// No claims on `total` blocks.
    pub fn new(total: u64) -> Claims {
        Claims { total, groups: HashMap::new(), blocks: 0 }
    }

    /// Takes a run inside the filesystem; `false`, and nothing happens, when some of it is taken.
    pub fn claim(&mut self, run: Run) -> bool {
        let is_free = !self.touches(run);
        if is_free {
            self.add(run);
        }
        is_free
    }

    /// Takes what is not taken of a run inside the filesystem.
    pub fn add(&mut self, run: Run) {
        for (group, from, to) in parts(run) {
            let len = self.len(group);
            let fresh = || Group::Part(Box::new(Bits::filled(false, len)), len);
            let entry = self.groups.entry(group).or_insert_with(fresh);
            let Group::Part(bits, free) = entry else { continue };
            let taken = bits.set(from, to, true);
            *free -= taken;
            self.blocks += taken;
            if *free == 0 {
                *entry = Group::Full;
            }
        }
    }

    /// Gives a run back.
    pub fn release(&mut self, run: Run) {
        for (group, from, to) in parts(run) {
            let len = self.len(group);
            let Some(entry) = self.groups.get_mut(&group) else { continue };
            if matches!(entry, Group::Full) {
                *entry = Group::Part(Box::new(Bits::filled(true, len)), 0);
            }
            let Group::Part(bits, free) = entry else { continue };
            let given = bits.set(from, to, false);
            *free += given;
            self.blocks -= given;
            if *free == len {
                self.groups.remove(&group);
            }
        }
    }

    /// True when some block of a run is taken.
    pub fn touches(&self, run: Run) -> bool {
        parts(run).any(|(group, from, to)| match self.groups.get(&group) {
            None => false,
            Some(Group::Full) => true,
            Some(Group::Part(bits, _)) => bits.next_taken(from).is_some_and(|at| at < to),
        })
    }

    /// True when every block of a run is taken.
    pub fn covers(&self, run: Run) -> bool {
        parts(run).all(|(group, from, to)| match self.groups.get(&group) {
            None => false,
            Some(Group::Full) => true,
            Some(Group::Part(bits, _)) => bits.next_free(from).is_none_or(|at| at >= to),
        })
    }

    /// Blocks with an owner.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The bits of a group; those past the end of the filesystem are set.
    pub fn bits(&self, group: u64) -> Bits {
        match self.groups.get(&group) {
            None => Bits::filled(false, self.len(group)),
            Some(Group::Full) => Bits::filled(true, self.len(group)),
            Some(Group::Part(bits, _)) => (**bits).clone(),
        }
    }

    /// Free blocks of a group.
    pub fn free(&self, group: u64) -> u64 {
        match self.groups.get(&group) {
            None => self.len(group),
            Some(Group::Full) => 0,
            Some(Group::Part(_, free)) => *free,
        }
    }

    /// Blocks of a group: fewer than [`GROUP_BLOCKS`] in the last one.
    pub fn len(&self, group: u64) -> u64 {
        GROUP_BLOCKS.min(self.total - group * GROUP_BLOCKS)
    }

    /// Number of groups.
    pub fn groups(&self) -> u64 {
        self.total.div_ceil(GROUP_BLOCKS)
    }
}

/// The parts of a run in each group: group, first block, one past the last.
fn parts(run: Run) -> impl Iterator<Item = (u64, u64, u64)> {
    let groups = run.start / GROUP_BLOCKS..run.end().div_ceil(GROUP_BLOCKS);
    groups.map(move |group| {
        let base = group * GROUP_BLOCKS;
        let from = run.start.max(base) - base;
        (group, from, (run.end() - base).min(GROUP_BLOCKS))
    })
}

/// The runs of blocks that are taken in `bits`, the bits of group `group` of `len` blocks.
pub fn taken_runs(bits: &Bits, group: u64, len: u64) -> impl Iterator<Item = Run> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let from = bits.next_taken(at).filter(|from| *from < len)?;
        at = bits.next_free(from).unwrap_or(len).min(len);
        Some(Run { start: group * GROUP_BLOCKS + from, blocks: at - from })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, blocks: u64) -> Run {
        Run { start, blocks }
    }

    #[test]
    fn a_block_has_one_owner() {
        let mut claims = Claims::new(40_000);
        assert!(claims.claim(run(10, 5)));
        for (start, blocks) in [(14, 1), (8, 3), (5, 100), (11, 2), (0, 40_000)] {
            assert!(!claims.claim(run(start, blocks)), "{start}+{blocks}");
        }
        assert!(claims.claim(run(15, 1)) && claims.claim(run(9, 1)));
        assert_eq!(claims.blocks(), 7);
        assert!(claims.covers(run(9, 7)) && !claims.covers(run(9, 8)));
        claims.release(run(10, 2));
        assert!(claims.claim(run(10, 1)) && !claims.claim(run(10, 2)));
    }

    #[test]
    fn groups_that_are_all_taken_or_all_free_cost_nothing() {
        let mut claims = Claims::new(40_000);
        assert!(claims.claim(run(8000, 25_000)));
        assert!(claims.groups.values().filter(|g| matches!(g, Group::Full)).count() == 3);
        assert!(claims.claim(run(39_000, 1000)), "to the end");
        assert_eq!((claims.free(4), claims.free(1)), (40_000 - 4 * 8192 - 1232, 0));
        claims.release(run(8000, 25_000));
        assert_eq!(claims.groups.len(), 1);
        assert_eq!(claims.blocks(), 1000);
        let bits = claims.bits(4);
        let runs: Vec<Run> = taken_runs(&bits, 4, claims.len(4)).collect();
        assert_eq!(runs, [run(39_000, 1000)]);
    }
}
