//! Which runs of blocks belong to whom.

use crate::image::pins::Run;
use crate::image::space::GROUP_BLOCKS;
use std::collections::BTreeMap;

/// An owner of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Superblocks and the metadata area.
    Fixed,
    /// A file.
    Inode(u64),
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Owner::Fixed => f.write_str("the filesystem's own structures"),
            Owner::Inode(ino) => write!(f, "inode {ino}"),
        }
    }
}

/// Runs with owners; they never overlap.
#[derive(Debug, Default)]
pub struct Claims {
    runs: BTreeMap<u64, (u64, Owner)>,
}

impl Claims {
    /// Takes a run, or says who has some of it.
    pub fn claim(&mut self, run: Run, owner: Owner) -> Result<(), Owner> {
        let before = self.runs.range(..run.end()).next_back();
        if let Some((_, (_, other))) = before.filter(|(_, (end, _))| *end > run.start) {
            return Err(*other);
        }
        self.runs.insert(run.start, (run.end(), owner));
        Ok(())
    }

    /// Gives a run back that was claimed as it is.
    pub fn release(&mut self, start: u64) {
        self.runs.remove(&start);
    }

    /// Blocks with an owner.
    pub fn blocks(&self) -> u64 {
        self.runs.iter().map(|(start, (end, _))| end - start).sum()
    }

    /// The rows of table `groups` for a filesystem of `total` blocks. Bits past its end are set.
    pub fn rows(&self, total: u64) -> BTreeMap<u64, Vec<u8>> {
        let groups = total.div_ceil(GROUP_BLOCKS);
        let mut rows: BTreeMap<u64, Vec<u8>> =
            (0..groups).map(|g| (g, vec![0; (GROUP_BLOCKS / 8) as usize])).collect();
        let tail = (total, (groups * GROUP_BLOCKS, Owner::Fixed));
        for (start, (end, _)) in self.runs.iter().map(|(s, e)| (*s, *e)).chain([tail]) {
            let mut at = start;
            while at < end {
                let stop = end.min((at / GROUP_BLOCKS + 1) * GROUP_BLOCKS);
                if let Some(row) = rows.get_mut(&(at / GROUP_BLOCKS)) {
                    set(row, at % GROUP_BLOCKS, stop - at);
                }
                at = stop;
            }
        }
        rows
    }

    /// True when the filesystem itself owns `block`.
    pub fn is_fixed(&self, block: u64) -> bool {
        let run = self.runs.range(..=block).next_back();
        run.is_some_and(|(_, (end, owner))| *end > block && *owner == Owner::Fixed)
    }
}

fn set(row: &mut [u8], from: u64, len: u64) {
    let (mut at, end) = (from, from + len);
    while at < end {
        let (byte, bit) = ((at / 8) as usize, at % 8);
        let n = (8 - bit).min(end - at);
        row[byte] |= ((0xffu16 >> (8 - n)) << bit) as u8;
        at += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::pins::Pins;
    use crate::image::space::Space;
    use std::sync::Arc;

    #[test]
    fn a_block_has_one_owner() {
        let mut claims = Claims::default();
        assert_eq!(claims.claim(Run { start: 10, blocks: 5 }, Owner::Inode(2)), Ok(()));
        for (start, blocks) in [(14, 1), (8, 3), (5, 100), (11, 2)] {
            let taken = claims.claim(Run { start, blocks }, Owner::Inode(3));
            assert_eq!(taken, Err(Owner::Inode(2)), "{start}+{blocks}");
        }
        assert_eq!(claims.claim(Run { start: 15, blocks: 1 }, Owner::Inode(3)), Ok(()));
        assert_eq!(claims.claim(Run { start: 9, blocks: 1 }, Owner::Fixed), Ok(()));
        assert!(claims.is_fixed(9) && !claims.is_fixed(10));
        assert_eq!(claims.blocks(), 7);
    }

    #[test]
    fn rows_are_those_of_the_allocator() {
        let total = 30_000;
        let (mut claims, space) = (Claims::default(), Space::new(total, Arc::new(Pins::default())));
        for (start, blocks) in [(0, 1), (63, 2), (8190, 9000), (29_999, 1)] {
            claims.claim(Run { start, blocks }, Owner::Fixed).expect("free");
            space.claim(Run { start, blocks });
        }
        assert_eq!(claims.rows(total).into_iter().collect::<Vec<_>>(), space.rows());
    }
}
