//! What the lanes of a stress run share: the oracle, the bursts, and the board on which they find each other.
//!
//! Nothing is shared without an order: the board's words are atomics that are stored before the call that
//! they announce (SeqCst), everything else is under a lock.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rand::{Rng, RngExt};

use super::bursts::Bursts;
use super::lane::{Action, Mix, Way};
use super::lock;
use super::oracle::{Harm, Oracle};
use super::sampler::{Aim, Sampler};
use super::tally::Span;
use crate::fixture::Known;
use crate::kit::event::now_ns;
use crate::kit::verdict::Fault;

/// Parts that are fought over in a burst.
const HOT: usize = 3;
/// Longest that an action waits for the start of the I/O that it is to meet.
const PATIENCE_NS: u64 = 300_000;
/// Longest that an I/O waits for the time at which an action wants it.
const COURTESY_NS: u64 = 200_000;

/// See the [module](self).
#[derive(Debug)]
pub struct Board {
    /// The legality of what is read.
    pub oracle: Oracle,
    /// What the lanes wait at.
    pub bursts: Bursts,
    zero_ns: u64,
    hot: [AtomicUsize; HOT],
    /// Number of the mix of this burst.
    mix: AtomicUsize,
    places: [Place; Way::ALL.len()],
    samplers: Mutex<Vec<Sampler>>,
    spots: Mutex<Vec<usize>>,
    found: Mutex<Option<Found>>,
    /// Bugs that are known here: the run goes on after them.
    known: Known,
    /// The first harm of a known bug, and how often such was seen.
    met: Mutex<Option<(Found, u64)>>,
}

/// What an I/O lane tells, and what it is asked for.
#[derive(Debug, Default)]
struct Place {
    there: AtomicBool,
    /// How often it began something, and in the low bits on which part.
    mark: AtomicU64,
    /// The part and time at which an action wants it; 0 is no wish.
    wish: AtomicU64,
}

/// Harm, and where it was seen.
#[derive(Debug)]
pub struct Found {
    /// By whom, for people.
    pub who: String,
    /// The part of the file.
    pub part: usize,
    /// What the oracle says, or another fault alone.
    pub harm: Box<Harm>,
}

impl Found {
    /// A fault that no read showed.
    pub fn fault(who: &str, part: usize, fault: Fault) -> Found {
        let (strips, history) = (Vec::new(), Vec::new());
        Found {
            who: who.to_owned(),
            part,
            harm: Box::new(Harm { faults: vec![fault], strips, history }),
        }
    }
}

impl Board {
    /// For a file of that many parts and that many lanes.
    pub fn new(oracle: Oracle, lanes: usize) -> Board {
        let samplers = vec![Sampler::default(); Way::ALL.len() * Action::ALL.len()];
        Board {
            oracle,
            bursts: Bursts::new(lanes),
            zero_ns: now_ns(),
            hot: Default::default(),
            mix: AtomicUsize::new(0),
            places: Default::default(),
            samplers: Mutex::new(samplers),
            spots: Mutex::default(),
            found: Mutex::default(),
            known: Known::default(),
            met: Mutex::default(),
        }
    }

    /// The same where these bugs are known.
    pub fn knowing(self, known: Known) -> Board {
        Board { known, ..self }
    }

    /// Chooses the parts that the next burst is about, and who plays in it.
    pub fn choose(&self, rng: &mut impl Rng) {
        self.mix.store(rng.random_range(0..Mix::ALL.len()), Ordering::SeqCst);
        for hot in &self.hot {
            hot.store(rng.random_range(0..self.oracle.parts()), Ordering::SeqCst);
        }
    }

    /// Whether a way of I/O plays in this burst.
    pub fn plays(&self, way: Way) -> bool {
        Mix::ALL[self.mix.load(Ordering::SeqCst)].has(way)
    }

    /// One of them, or now and then any other.
    pub fn part(&self, rng: &mut impl Rng) -> usize {
        match rng.random_range(0..HOT + 1) {
            HOT => rng.random_range(0..self.oracle.parts()),
            hot => self.hot[hot].load(Ordering::SeqCst),
        }
    }

    /// An I/O lane is there.
    pub fn join(&self, way: Way) {
        self.places[way as usize].there.store(true, Ordering::SeqCst);
    }

    /// Memory of a page that a forked child may watch.
    pub fn watch(&self, spot: usize) {
        lock(&self.spots).push(spot);
    }

    /// One of them.
    pub fn spot(&self, rng: &mut impl Rng) -> Option<usize> {
        let spots = lock(&self.spots);
        (!spots.is_empty()).then(|| spots[rng.random_range(0..spots.len())])
    }

    /// The part that an I/O is to begin on now: waits for the time of an action that wants it.
    pub fn begin(&self, way: Way, rng: &mut impl Rng) -> usize {
        let place = &self.places[way as usize];
        let wish = place.wish.swap(0, Ordering::SeqCst);
        let part = if wish == 0 {
            self.part(rng)
        } else {
            let at = self.zero_ns + (wish >> 16);
            if at <= now_ns() + COURTESY_NS {
                spin_until(at);
            }
            (wish & 0xFFFF) as usize - 1
        };
        let count = (place.mark.load(Ordering::SeqCst) >> 16) + 1;
        place.mark.store(count << 16 | part as u64, Ordering::SeqCst);
        part
    }

    /// An I/O for an action to meet, how, and the part: returns at the time at which the action is to begin.
    pub fn aim(&self, action: Action, rng: &mut impl Rng) -> (Option<(Way, Aim)>, usize) {
        let there =
            |way: &Way| self.plays(*way) && self.places[*way as usize].there.load(Ordering::SeqCst);
        let ways: Vec<Way> = Way::ALL.into_iter().filter(there).collect();
        if ways.is_empty() {
            return (None, self.part(rng));
        }
        let way = ways[rng.random_range(0..ways.len())];
        let aim = lock(&self.samplers)[pair(way, action)].draw(rng);
        let place = &self.places[way as usize];
        if aim.offset_ns < 0 {
            let part = self.part(rng);
            let at = now_ns().saturating_add_signed(-aim.offset_ns) - self.zero_ns;
            place.wish.store(at << 16 | (part as u64 + 1), Ordering::SeqCst);
            return (Some((way, aim)), part);
        }
        let before = place.mark.load(Ordering::SeqCst);
        let end = now_ns() + PATIENCE_NS;
        loop {
            let mark = place.mark.load(Ordering::SeqCst);
            if mark != before {
                spin_until(now_ns().saturating_add_signed(aim.offset_ns));
                return (Some((way, aim)), (mark & 0xFFFF) as usize);
            }
            if now_ns() >= end {
                return (None, self.part(rng));
            }
            std::thread::yield_now();
        }
    }

    /// Waits until some I/O lane that is there has begun something new, or for a bound.
    pub fn next_begin(&self) {
        let marks = || -> u64 {
            let marks = self.places.iter().map(|place| place.mark.load(Ordering::SeqCst) >> 16);
            marks.sum()
        };
        let (before, end) = (marks(), now_ns() + PATIENCE_NS);
        while marks() < before + 2 && now_ns() < end {
            std::thread::yield_now();
        }
    }

    /// What came of a burst, for the aims of the next.
    pub fn learn(&self, spans: &[Span]) {
        use super::tally::Who;
        let mut samplers = lock(&self.samplers);
        let mean = |who: Who| {
            let times = spans.iter().filter(|span| span.who == who);
            let (count, sum) = times
                .fold((0, 0), |(count, sum), span| (count + 1, sum + span.to_ns - span.from_ns));
            (count > 0).then(|| sum / count)
        };
        let (ios, actions) =
            (Way::ALL.map(|way| mean(Who::Io(way))), Action::ALL.map(|a| mean(Who::Action(a))));
        for way in Way::ALL {
            for action in Action::ALL {
                samplers[pair(way, action)].measure(ios[way as usize], actions[action as usize]);
            }
        }
        for span in spans {
            if let (Who::Action(action), Some((way, aim))) = (span.who, span.aim) {
                let met = |other: &&Span| other.who == Who::Io(way) && other.overlaps(span);
                let hit = spans.iter().any(|other| met(&other));
                samplers[pair(way, action)].learn(aim, hit);
            }
        }
    }

    /// Harm was seen: the first is kept, and the stress run ends. It goes on when all of it is of known bugs.
    pub fn report(&self, found: Found) {
        if found.harm.faults.iter().all(|fault| self.known.knows(fault)) {
            lock(&self.met).get_or_insert((found, 0)).1 += 1;
            return;
        }
        lock(&self.found).get_or_insert(found);
        self.bursts.stop();
    }

    /// Whether a known bug was met.
    pub fn has_met(&self) -> bool {
        lock(&self.met).is_some()
    }

    /// The first harm of a known bug, and how often such was seen.
    pub fn met(&self) -> Option<(Found, u64)> {
        lock(&self.met).take()
    }

    /// What was seen.
    pub fn found(&self) -> Option<Found> {
        lock(&self.found).take()
    }
}

fn pair(way: Way, action: Action) -> usize {
    way as usize * Action::ALL.len() + action as usize
}

/// Waits without giving the processor away where it is short.
fn spin_until(at_ns: u64) {
    loop {
        let now = now_ns();
        if now >= at_ns {
            return;
        }
        if at_ns - now > 20_000 { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::verdict::Class;

    #[test]
    fn a_known_bug_does_not_end_a_run_and_another_does() {
        let fault = |class, text: &str| Fault { class, text: text.to_owned() };
        let known = Known::new(|fault| fault.class == Class::Stale && fault.text == "old");
        let board = Board::new(Oracle::new(1, 4), 0).knowing(known);
        for _ in 0..2 {
            board.report(Found::fault("a reader", 0, fault(Class::Stale, "old")));
        }
        assert!(board.has_met() && !board.bursts.is_stopped() && board.found().is_none());
        board.report(Found::fault("a reader", 0, fault(Class::Stale, "older")));
        assert!(board.bursts.is_stopped() && board.found().is_some());
        assert_eq!(board.met().map(|(_, times)| times), Some(2));
    }
}
