//! Which pieces of the slabs are free: a binary buddy system, no pointers and no I/O.
//!
//! A slab of 2 MiB is 2^`levels` leaves. A block of order `o` is 2^`o` leaves and starts at a
//! multiple of its own size, so every piece is naturally aligned. Finding, splitting and merging
//! cost one step an order (ten at 4 KiB pages), whatever the number of slabs.

/// A piece: slab number, order, and the index of the block among the blocks of that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) slab: u32,
    pub(crate) order: u8,
    pub(crate) index: u32,
}

/// Free blocks of every slab.
#[derive(Debug)]
pub(crate) struct Buddy {
    levels: u8,
    slabs: usize,
    /// For each order, the slabs that have a free block of it.
    any: Vec<Bits>,
    /// For each slab and order (slab-major), the free blocks.
    free: Vec<Bits>,
}

impl Buddy {
    /// All of `slabs` slabs free, each 2^`levels` leaves.
    pub(crate) fn new(slabs: usize, levels: u8) -> Self {
        let any = (0..=levels).map(|_| Bits::new(slabs)).collect();
        let free = (0..slabs)
            .flat_map(|_| (0..=levels).map(move |o| Bits::new(1 << (levels - o))))
            .collect();
        let mut buddy = Self { levels, slabs, any, free };
        for slab in 0..slabs {
            buddy.mark(slab, levels, 0);
        }
        buddy
    }

    /// Takes a block of `order`, from the smallest block that can hold it and the lowest slab.
    pub(crate) fn take(&mut self, order: u8) -> Option<Piece> {
        let (found, slab) = (order..=self.levels)
            .find_map(|o| self.any[o as usize].first().map(|slab| (o, slab)))?;
        let slot = self.slot(slab, found);
        let mut index = self.free[slot].first()?;
        self.unmark(slab, found, index);
        for o in (order..found).rev() {
            index *= 2;
            self.mark(slab, o, index + 1);
        }
        Some(Piece { slab: slab as u32, order, index: index as u32 })
    }

    /// Gives a block back and merges it with its buddy for as long as that one is free too.
    ///
    /// # Panics
    /// When the block is free already: a piece was returned twice.
    pub(crate) fn give(&mut self, piece: Piece) {
        let slab = piece.slab as usize;
        let (mut order, mut index) = (piece.order, piece.index as usize);
        while order < self.levels && self.is_free(slab, order, index ^ 1) {
            self.unmark(slab, order, index ^ 1);
            order += 1;
            index /= 2;
        }
        assert!(!self.is_free(slab, order, index), "piece {piece:?} was returned twice");
        self.mark(slab, order, index);
    }

    /// Slabs that are wholly free.
    #[cfg(test)]
    pub(crate) fn whole(&self) -> usize {
        (0..self.slabs).filter(|&s| self.is_free(s, self.levels, 0)).count()
    }

    fn slot(&self, slab: usize, order: u8) -> usize {
        debug_assert!(slab < self.slabs);
        slab * (self.levels as usize + 1) + order as usize
    }

    fn is_free(&self, slab: usize, order: u8, index: usize) -> bool {
        self.free[self.slot(slab, order)].get(index)
    }

    fn mark(&mut self, slab: usize, order: u8, index: usize) {
        let slot = self.slot(slab, order);
        self.free[slot].set(index);
        self.any[order as usize].set(slab);
    }

    fn unmark(&mut self, slab: usize, order: u8, index: usize) {
        let slot = self.slot(slab, order);
        self.free[slot].clear(index);
        if self.free[slot].first().is_none() {
            self.any[order as usize].clear(slab);
        }
    }
}

/// A set of small integers.
#[derive(Debug)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn get(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }

    fn set(&mut self, i: usize) {
        self.0[i / 64] |= 1 << (i % 64);
    }

    fn clear(&mut self, i: usize) {
        self.0[i / 64] &= !(1 << (i % 64));
    }

    fn first(&self) -> Option<usize> {
        let word = self.0.iter().position(|&w| w != 0)?;
        Some(word * 64 + self.0[word].trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slab_splits_into_all_its_leaves_and_merges_again() {
        let mut b = Buddy::new(2, 9);
        let pieces: Vec<_> = std::iter::from_fn(|| b.take(0)).collect();
        assert_eq!(pieces.len(), 1024);
        assert_eq!(b.whole(), 0);
        pieces.into_iter().rev().for_each(|p| b.give(p));
        assert_eq!(b.whole(), 2);
    }

    #[test]
    #[should_panic(expected = "returned twice")]
    fn a_piece_returned_twice_is_caught() {
        let mut b = Buddy::new(1, 9);
        let p = b.take(3).unwrap();
        let _hold = b.take(3).unwrap();
        b.give(p);
        b.give(p);
    }

    proptest! {
        /// No two live pieces overlap, whatever the order of takes and gives, and nothing is lost.
        #[test]
        fn live_pieces_never_overlap(steps in prop::collection::vec((any::<bool>(), 0u8..=6, any::<prop::sample::Index>()), 1..300)) {
            let mut b = Buddy::new(3, 6);
            let mut live: Vec<Piece> = Vec::new();
            let span = |p: &Piece| {
                let from = ((p.slab as usize) << 6) + ((p.index as usize) << p.order);
                from..from + (1 << p.order)
            };
            for (take, order, pick) in steps {
                if take {
                    if let Some(p) = b.take(order) {
                        for q in &live {
                            prop_assert!(span(q).end <= span(&p).start || span(&p).end <= span(q).start);
                        }
                        live.push(p);
                    }
                } else if !live.is_empty() {
                    let at = pick.index(live.len());
                    b.give(live.swap_remove(at));
                }
            }
            live.into_iter().for_each(|p| b.give(p));
            prop_assert_eq!(b.whole(), 3);
        }
    }
}
