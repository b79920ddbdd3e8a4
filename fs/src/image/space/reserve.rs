//! Blocks set aside for the metadata area.
//!
//! The area grows while the database writes, when neither the allocator nor the database may be
//! asked for anything: so what it will need is taken out of the allocator before. What is set
//! aside is nowhere on disk; a mount begins with nothing and takes it anew.

use crate::image::pins::Run;
use std::ops::Range;

/// Runs that only the metadata area may use.
#[derive(Debug, Default)]
pub struct Reserve {
    runs: Vec<Run>,
    /// Handed out and not yet part of the bitmaps.
    taken: Vec<Run>,
}

impl Reserve {
    /// Blocks that are set aside.
    pub fn blocks(&self) -> u64 {
        self.runs.iter().map(|run| run.blocks).sum()
    }

    /// One past the last block that was set aside, where more would best be.
    pub fn end(&self) -> Option<u64> {
        self.runs.last().map(Run::end)
    }

    /// Sets a run aside.
    pub fn put(&mut self, run: Run) {
        match self.runs.last_mut() {
            Some(last) if last.end() == run.start => last.blocks += run.blocks,
            _ => self.runs.push(run),
        }
    }

    /// Up to `want` blocks in one run: those at `after` if they are set aside, else from the first
    /// run that has as many, else from the longest.
    pub fn take(&mut self, want: u64, after: Option<u64>) -> Option<Run> {
        let longest = || (0..self.runs.len()).max_by_key(|i| self.runs[*i].blocks);
        let found = self.runs.iter().position(|run| Some(run.start) == after);
        let index = found
            .or_else(|| self.runs.iter().position(|run| run.blocks >= want))
            .or_else(longest)
            .filter(|_| want > 0)?;
        let from = &mut self.runs[index];
        let run = Run { start: from.start, blocks: want.min(from.blocks) };
        (from.start, from.blocks) = (run.end(), from.blocks - run.blocks);
        if from.blocks == 0 {
            self.runs.remove(index);
        }
        self.taken.push(run);
        Some(run)
    }

    /// The part of one run that lies in `range` and holds `block`; `None` when `block` is not set
    /// aside.
    pub fn take_around(&mut self, block: u64, range: Range<u64>) -> Option<Run> {
        let holds = |run: &Run| run.start <= block && block < run.end();
        let index = self.runs.iter().position(holds)?;
        let whole = self.runs.remove(index);
        let (start, end) = (whole.start.max(range.start), whole.end().min(range.end));
        let run = Run { start, blocks: end - start };
        for (i, rest) in without(whole, &run).enumerate() {
            self.runs.insert(index + i, rest);
        }
        self.taken.push(run);
        Some(run)
    }

    /// The longest part of a run that overlaps none of `planned`; it stays where it is.
    pub fn spare(&self, planned: &[Run]) -> Option<Run> {
        let mut spare = self.runs.clone();
        for plan in planned {
            spare = spare.into_iter().flat_map(|run| without(run, plan)).collect();
        }
        spare.into_iter().max_by_key(|run| run.blocks)
    }

    /// What was handed out since the last call.
    pub fn take_taken(&mut self) -> Vec<Run> {
        std::mem::take(&mut self.taken)
    }

    /// Gives back what exceeds `keep` blocks, the last that was set aside first.
    pub fn give_back(&mut self, keep: u64) -> Vec<Run> {
        let mut excess = self.blocks().saturating_sub(keep);
        let mut back = Vec::new();
        while excess > 0 {
            let Some(last) = self.runs.last_mut() else { break };
            let n = excess.min(last.blocks);
            last.blocks -= n;
            back.push(Run { start: last.end(), blocks: n });
            if last.blocks == 0 {
                self.runs.pop();
            }
            excess -= n;
        }
        back
    }
}

/// What is left of a run when another one is taken out of it.
fn without(run: Run, other: &Run) -> impl Iterator<Item = Run> + use<> {
    let before = (run.start, run.end().min(other.start));
    let after = (run.start.max(other.end()), run.end());
    let both = if other.end() <= run.start || run.end() <= other.start {
        [(run.start, run.end()), (0, 0)]
    } else {
        [before, after]
    };
    both.into_iter()
        .filter(|(from, to)| from < to)
        .map(|(start, to)| Run { start, blocks: to - start })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_continues_the_area_is_taken_first_and_the_end_is_given_back_first() {
        let mut reserve = Reserve::default();
        for (start, blocks) in [(100, 10), (110, 5), (500, 40)] {
            reserve.put(Run { start, blocks });
        }
        assert_eq!(reserve.take(20, Some(100)), Some(Run { start: 100, blocks: 15 }));
        assert_eq!(reserve.give_back(30), [Run { start: 530, blocks: 10 }]);
        assert_eq!(reserve.take(8, Some(7)), Some(Run { start: 500, blocks: 8 }));
        assert_eq!((reserve.blocks(), reserve.end()), (22, Some(530)));
        assert_eq!(reserve.take_taken().len(), 2);
        assert_eq!(reserve.take_around(7, 0..100), None);
        assert_eq!(reserve.take_around(520, 515..525), Some(Run { start: 515, blocks: 10 }));
        assert_eq!((reserve.blocks(), reserve.end()), (12, Some(530)));
        let spare = reserve.spare(&[Run { start: 500, blocks: 27 }]);
        assert_eq!(spare, Some(Run { start: 527, blocks: 3 }));
        reserve.put(Run { start: 530, blocks: 15 });
        assert_eq!(reserve.take_taken().len(), 1);
        assert_eq!(reserve.take(20, None), Some(Run { start: 525, blocks: 20 }));
        assert_eq!(reserve.take(100, None), Some(Run { start: 508, blocks: 7 }));
        assert_eq!(reserve.take(1, None), None);
    }
}
