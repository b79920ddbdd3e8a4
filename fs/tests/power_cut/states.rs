//! Everything that a disk may hold when the power goes.
//!
//! A flush makes all before it durable. Of what was written since, each sector of 512 bytes has any
//! of the contents that it had since then, independently of the others: the page cache never writes
//! back what a later write replaced, and below it everything may be reordered, lost or torn.

use crate::platter::{Sector, Sectors};
use inflight::disk::Event;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// What is left, and how it came about.
pub struct State {
    pub sectors: Sectors,
    /// Events of which this is all that there is: as the power goes before the next one.
    pub cut: usize,
    /// Events after which it may still be all: the next one is a flush.
    pub latest: usize,
    pub how: How,
}

/// Which of the unflushed writes arrived.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code)] // they are printed
pub enum How {
    /// All of them, in order.
    Prefix,
    /// All, the last one in part.
    TornLast,
    /// All but this event.
    Without(usize),
    /// Just this event.
    Only(usize),
    /// Some events.
    SomeWrites,
    /// Some sectors of some events.
    SomeSectors,
}

/// How many states of one stretch between two flushes are looked at, at most, of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub prefixes: usize,
    pub torn: usize,
    pub without: usize,
    pub only: usize,
    pub random: usize,
}

/// The states that the log of a disk allows.
pub struct States<'a> {
    events: &'a [Event],
    budget: Budget,
    rng: ChaCha8Rng,
    seen: HashSet<(u64, usize)>,
}

/// What happened between two flushes.
struct Stretch {
    events: Range<usize>,
    durable: Sectors,
    /// What each sector became, and by which event.
    versions: BTreeMap<u64, Vec<(usize, Arc<Sector>)>>,
}

impl Stretch {
    fn new(durable: Sectors, events: Range<usize>, log: &[Event]) -> Stretch {
        let mut versions: BTreeMap<u64, Vec<(usize, Arc<Sector>)>> = BTreeMap::new();
        for at in events.clone() {
            let before = |sector| match versions.get(&sector).and_then(|v| v.last()) {
                Some((_, bytes)) => bytes.clone(),
                None => durable.get(sector),
            };
            let after = Sectors::effect(&log[at], before);
            for (sector, bytes) in after {
                versions.entry(sector).or_default().push((at, bytes));
            }
        }
        Stretch { events, durable, versions }
    }

    /// The disk when just what `arrived` names did.
    fn state(&self, how: How, mut arrived: impl FnMut(usize, u64) -> bool) -> State {
        let (mut sectors, mut cut) = (self.durable.clone(), self.events.start);
        for (sector, versions) in &self.versions {
            let last = versions.iter().rev().find(|(event, _)| arrived(*event, *sector));
            if let Some((event, bytes)) = last {
                sectors.set(*sector, bytes.clone());
                cut = cut.max(event + 1);
            }
        }
        State { sectors, cut, latest: self.events.end, how }
    }

    fn all(&self) -> Sectors {
        self.state(How::Prefix, |_, _| true).sectors
    }
}

impl<'a> States<'a> {
    pub fn new(events: &'a [Event], budget: Budget, rng: ChaCha8Rng) -> States<'a> {
        States { events, budget, rng, seen: HashSet::new() }
    }

    /// Calls `visit` for each state after the first `from` events, over what `base` holds, that was
    /// not visited before.
    ///
    /// # Errors
    /// Those of `visit`, which end it.
    pub fn each<E>(
        &mut self,
        base: Sectors,
        from: usize,
        mut visit: impl FnMut(&State) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut durable, mut start) = (base, 0);
        while start <= self.events.len() {
            let rest = &self.events[start..];
            let len = rest.iter().position(|e| *e == Event::Sync).unwrap_or(rest.len());
            let stretch = Stretch::new(durable, start..start + len, self.events);
            if start + len >= from {
                self.stretch(&stretch, from, &mut visit)?;
            }
            durable = stretch.all();
            start += len + 1;
        }
        Ok(())
    }

    fn stretch<E>(
        &mut self,
        stretch: &Stretch,
        from: usize,
        visit: &mut impl FnMut(&State) -> Result<(), E>,
    ) -> Result<(), E> {
        let Range { start, end } = stretch.events;
        let mut show = |states: &mut States<'_>, mut state: State| {
            // Before that, the cut belongs to what was looked at with a shorter workload.
            state.cut = state.cut.max(from);
            let key = (state.sectors.hash(), state.latest);
            if states.seen.insert(key) { visit(&state) } else { Ok(()) }
        };
        let budget = self.budget;
        for n in self.sample(from.max(start)..end + 1, budget.prefixes) {
            let mut state = stretch.state(How::Prefix, |event, _| event < n);
            state.cut = n;
            show(self, state)?;
        }
        let last = from.max(start)..end;
        for n in self.sample(last.clone(), budget.torn) {
            let mut rng = self.fork();
            let torn = |event, _| event < n || event == n && rng.random();
            show(self, stretch.state(How::TornLast, torn))?;
        }
        for gone in self.sample(start..end, budget.without) {
            show(self, stretch.state(How::Without(gone), |event, _| event != gone))?;
        }
        for only in self.sample(last, budget.only) {
            show(self, stretch.state(How::Only(only), |event, _| event == only))?;
        }
        if end - start < 2 {
            return Ok(());
        }
        for _ in 0..budget.random {
            let mut rng = self.fork();
            let arrived: Vec<bool> = (start..end).map(|_| rng.random()).collect();
            show(self, stretch.state(How::SomeWrites, |event, _| arrived[event - start]))?;
            show(self, stretch.state(How::SomeSectors, |_, _| rng.random()))?;
        }
        Ok(())
    }

    fn fork(&mut self) -> ChaCha8Rng {
        use rand::SeedableRng as _;
        ChaCha8Rng::seed_from_u64(self.rng.random())
    }

    /// All numbers of a range, or `most` of them; its ends are always among them.
    fn sample(&mut self, range: Range<usize>, most: usize) -> Vec<usize> {
        if range.len() <= most {
            return range.collect();
        }
        let mut some = vec![range.start, range.end - 1];
        some.extend((2..most).map(|_| self.rng.random_range(range.clone())));
        some
    }
}
