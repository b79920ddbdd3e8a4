//! What overlapped what: the spans of both sides on one clock, and the table of it.

use std::fmt::Write;
use std::ops::Range;

use super::lane::{Action, Way};
use super::sampler::Aim;

/// One call, from just before it to just after it, in ns of CLOCK_MONOTONIC.
#[derive(Clone, Debug)]
pub struct Span {
    /// Whose it was.
    pub who: Who,
    /// Parts of the file that it was about.
    pub parts: Range<usize>,
    /// Its begin.
    pub from_ns: u64,
    /// Its end.
    pub to_ns: u64,
    /// Which I/O an action was aimed at, and how.
    pub aim: Option<(Way, Aim)>,
    /// What it was and returned.
    pub text: String,
}

/// A side of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// An I/O.
    Io(Way),
    /// A racing action.
    Action(Action),
}

impl Span {
    /// Whether both were under way at some instant, on the same bytes. A fork races with every I/O.
    pub fn overlaps(&self, other: &Span) -> bool {
        let everywhere = |span: &Span| span.who == Who::Action(Action::Fork);
        let parts = self.parts.start < other.parts.end && other.parts.start < self.parts.end;
        (parts || everywhere(self) || everywhere(other))
            && self.from_ns < other.to_ns
            && other.from_ns < self.to_ns
    }
}

/// How often each I/O and each action was done, and met the other.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    ios: [u64; Way::ALL.len()],
    actions: [u64; Action::ALL.len()],
    pairs: [[u64; Action::ALL.len()]; Way::ALL.len()],
}

impl Tally {
    /// Counts the calls of a burst. An I/O that met several actions of a kind counts once for it.
    pub fn add(&mut self, spans: &[Span]) {
        for span in spans {
            match span.who {
                Who::Action(action) => self.actions[action as usize] += 1,
                Who::Io(way) => {
                    self.ios[way as usize] += 1;
                    for action in Action::ALL {
                        let met = |other: &&Span| other.who == Who::Action(action);
                        if spans.iter().filter(met).any(|other| other.overlaps(span)) {
                            self.pairs[way as usize][action as usize] += 1;
                        }
                    }
                }
            }
        }
    }

    /// I/Os that met an action.
    pub fn overlaps(&self) -> u64 {
        self.pairs.iter().flatten().sum()
    }

    /// Pairs of which both sides were played, and that never met.
    pub fn never(&self) -> Vec<(Way, Action)> {
        let pairs = Way::ALL.into_iter().flat_map(|way| Action::ALL.map(|action| (way, action)));
        let played = |&(way, action): &(Way, Action)| {
            self.ios[way as usize] > 0 && self.actions[action as usize] > 0
        };
        let met = |(way, action): (Way, Action)| self.pairs[way as usize][action as usize];
        pairs.filter(played).filter(|&pair| met(pair) == 0).collect()
    }

    /// I/Os and actions that were done.
    pub fn calls(&self) -> (u64, u64) {
        (self.ios.iter().sum(), self.actions.iter().sum())
    }

    /// The table, a row for each I/O.
    pub fn table(&self) -> String {
        let actions: Vec<Action> =
            Action::ALL.into_iter().filter(|&action| self.actions[action as usize] > 0).collect();
        let mut out = format!("{:<16}{:>9}", "overlaps", "calls");
        for action in &actions {
            let _ = write!(out, "{:>10}", action.name());
        }
        let _ = write!(out, "\n{:<16}{:>9}", "", "");
        for &action in &actions {
            let _ = write!(out, "{:>10}", self.actions[action as usize]);
        }
        for way in Way::ALL.into_iter().filter(|&way| self.ios[way as usize] > 0) {
            let _ = write!(out, "\n{:<16}{:>9}", way.name(), self.ios[way as usize]);
            for &action in &actions {
                let _ = write!(out, "{:>10}", self.pairs[way as usize][action as usize]);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(who: Who, parts: Range<usize>, from_ns: u64, to_ns: u64) -> Span {
        Span { who, parts, from_ns, to_ns, aim: None, text: String::new() }
    }

    #[test]
    fn overlaps_are_in_time_and_on_the_same_bytes() {
        let read = span(Who::Io(Way::Buffered), 3..4, 100, 200);
        let punch = |parts, from, to| span(Who::Action(Action::Punch), parts, from, to);
        assert!(punch(3..4, 199, 300).overlaps(&read) && punch(0..9, 50, 101).overlaps(&read));
        assert!(!punch(3..4, 200, 300).overlaps(&read) && !punch(4..5, 100, 200).overlaps(&read));
        assert!(span(Who::Action(Action::Fork), 0..0, 150, 160).overlaps(&read));
    }

    #[test]
    fn the_table_counts_each_io_once_for_each_kind_of_action() {
        let mut tally = Tally::default();
        tally.add(&[
            span(Who::Io(Way::Buffered), 0..1, 0, 100),
            span(Who::Io(Way::Mapped), 0..1, 500, 600),
            span(Who::Action(Action::Punch), 0..1, 10, 20),
            span(Who::Action(Action::Punch), 0..1, 30, 40),
            span(Who::Action(Action::Fork), 0..0, 550, 560),
        ]);
        assert_eq!((tally.overlaps(), tally.calls()), (2, (2, 3)));
        let never = tally.never();
        assert_eq!(never, [(Way::Buffered, Action::Fork), (Way::Mapped, Action::Punch)]);
        assert_eq!(tally.table().lines().count(), 4);
    }
}
