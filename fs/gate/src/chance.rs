//! Which matches a rule with a probability acts on.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::rule::MILLION;

/// A row of choices that its seed determines, on every machine.
#[derive(Clone, Debug)]
pub(super) struct Chance {
    millionths: u32,
    choices: ChaCha8Rng,
}

impl Chance {
    /// Choices that come out true `millionths` times in a million.
    pub fn new(millionths: u32, seed: u64) -> Chance {
        Chance { millionths, choices: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The next choice.
    pub fn falls(&mut self) -> bool {
        self.choices.random_range(0..MILLION) < self.millionths
    }
}
