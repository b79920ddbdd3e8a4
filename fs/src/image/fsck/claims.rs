//! Which runs of blocks belong to whom.

use crate::image::pins::Run;
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

    /// Everything that has an owner.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.runs.iter().map(|(start, (end, _))| Run { start: *start, blocks: end - start })
    }

    /// True when the filesystem itself owns `block`.
    pub fn is_fixed(&self, block: u64) -> bool {
        let run = self.runs.range(..=block).next_back();
        run.is_some_and(|(_, (end, owner))| *end > block && *owner == Owner::Fixed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
