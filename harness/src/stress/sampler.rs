//! Where in time a racer starts, seen from the I/O that it is to meet: swept at first, then drawn towards the
//! starts that met something, as fuzzy-sync samplers do.
//!
//! Both calls have a length. They overlap when the racer starts later than its own length before the I/O, and
//! earlier than the I/O's length behind its start: that span is cut into bins. Lengths are running means of
//! what was measured, so the span follows the machine's load.

use rand::{Rng, RngExt};

const BINS: usize = 8;

/// The starts of one pair of I/O and action.
#[derive(Clone, Debug)]
pub struct Sampler {
    io_ns: f64,
    action_ns: f64,
    bins: [Bin; BINS],
    next: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    tries: u32,
    hits: u32,
}

/// A start that was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    /// ns from the start of the I/O to the start of the action; negative when the action comes first.
    pub offset_ns: i64,
    bin: usize,
}

impl Default for Sampler {
    fn default() -> Sampler {
        Sampler { io_ns: 20_000.0, action_ns: 20_000.0, bins: [Bin::default(); BINS], next: 0 }
    }
}

impl Sampler {
    /// Draws a start: every other time the next bin of a sweep, otherwise a bin by its hits.
    pub fn draw(&mut self, rng: &mut impl Rng) -> Aim {
        let bin = if rng.random_bool(0.5) {
            self.next = (self.next + 1) % BINS;
            self.next
        } else {
            self.best(rng)
        };
        let span = self.io_ns + self.action_ns;
        let within: f64 = rng.random_range(0.0..1.0);
        let at = (bin as f64 + within) / BINS as f64;
        Aim { offset_ns: (at * span - self.action_ns) as i64, bin }
    }

    /// A bin, the likelier the more of its tries met something.
    fn best(&self, rng: &mut impl Rng) -> usize {
        let rate = |bin: &Bin| f64::from(bin.hits + 1) / f64::from(bin.tries + 2);
        let sum: f64 = self.bins.iter().map(rate).sum();
        let mut left = rng.random_range(0.0..sum);
        for (number, bin) in self.bins.iter().enumerate() {
            left -= rate(bin);
            if left <= 0.0 {
                return number;
            }
        }
        BINS - 1
    }

    /// What came of a start.
    pub fn learn(&mut self, aim: Aim, hit: bool) {
        let bin = &mut self.bins[aim.bin];
        bin.tries += 1;
        bin.hits += u32::from(hit);
        // The load changes: what was long ago counts less.
        if bin.tries >= 200 {
            (bin.tries, bin.hits) = (bin.tries / 2, bin.hits / 2);
        }
    }

    /// How long the I/O and the action took, where either was measured.
    pub fn measure(&mut self, io_ns: Option<u64>, action_ns: Option<u64>) {
        // One call that was preempted for long must not stretch the span to nothing but misses.
        let mean = |mean: f64, ns: u64| 0.9 * mean + 0.1 * (ns as f64).min(8.0 * mean + 1000.0);
        self.io_ns = io_ns.map_or(self.io_ns, |ns| mean(self.io_ns, ns));
        self.action_ns = action_ns.map_or(self.action_ns, |ns| mean(self.action_ns, ns));
    }

    /// Tries and hits that are remembered.
    pub fn score(&self) -> (u32, u32) {
        self.bins.iter().fold((0, 0), |(tries, hits), bin| (tries + bin.tries, hits + bin.hits))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn starts_cover_the_span_in_which_calls_can_meet() {
        let (mut sampler, mut rng) = (Sampler::default(), ChaCha8Rng::seed_from_u64(1));
        let offsets: Vec<i64> = (0..500).map(|_| sampler.draw(&mut rng).offset_ns).collect();
        assert!(offsets.iter().all(|offset| (-20_000..=20_000).contains(offset)));
        assert!(offsets.iter().any(|&o| o < -15_000) && offsets.iter().any(|&o| o > 15_000));
    }

    #[test]
    fn starts_that_meet_something_become_more_frequent_and_the_others_do_not_die_out() {
        let (mut sampler, mut rng) = (Sampler::default(), ChaCha8Rng::seed_from_u64(2));
        let is_hit = |aim: Aim| (10_000..15_000).contains(&aim.offset_ns);
        let mut hits = 0;
        for round in 0..2000 {
            let aim = sampler.draw(&mut rng);
            sampler.learn(aim, is_hit(aim));
            hits += u32::from(round >= 1000 && is_hit(aim));
        }
        assert!(hits > 250, "{hits} of 1000; an even sweep would give 125");
        let others = (0..200).filter(|_| !is_hit(sampler.draw(&mut rng))).count();
        assert!(others > 50, "{others}");
    }

    #[test]
    fn the_span_follows_what_is_measured() {
        let mut sampler = Sampler::default();
        for _ in 0..200 {
            sampler.measure(Some(500_000), Some(1_000));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let offsets: Vec<i64> = (0..200).map(|_| sampler.draw(&mut rng).offset_ns).collect();
        assert!(offsets.iter().all(|offset| (-1_100..=500_000).contains(offset)), "{offsets:?}");
        assert!(offsets.iter().any(|&offset| offset > 300_000));
    }
}
