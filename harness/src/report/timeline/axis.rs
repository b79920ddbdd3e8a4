//! The axis of a timeline: which moments are where, which are inside the window.

use std::fmt::Write;

use super::super::article::time;
use crate::run::worker::Played;

/// Width of the picture, in px at its natural size.
pub const WIDTH: f64 = 820.0;
/// Where the axis begins and ends.
pub const LEFT: f64 = 60.0;
pub const RIGHT: f64 = WIDTH - 8.0;

/// A span of CLOCK_MONOTONIC, in ns, laid out between [`LEFT`] and [`RIGHT`].
#[derive(Debug)]
pub struct Axis {
    /// Its begin: a margin before the first event.
    pub from_ns: u64,
    /// Its end: a margin behind the last event.
    pub to_ns: u64,
    /// The first event, from which times are counted.
    pub zero_ns: u64,
    /// When something was parked, in order, apart from each other.
    pub windows: Vec<(u64, u64)>,
}

impl Axis {
    /// From the first to the last event: what the server did before and after is setting up. `None` when
    /// nothing happened.
    pub fn of(played: &Played) -> Option<Axis> {
        let first = played.events.iter().map(|event| event.at_ns).min()?;
        let last = played.events.iter().map(|event| event.at_ns).max()?;
        let margin = ((last - first) / 25).max(5_000);
        let (from_ns, to_ns) = (first.saturating_sub(margin), last + margin);
        let inside = |&(from, to): &(u64, u64)| from < to_ns && to > from_ns;
        let cut = |(from, to): (u64, u64)| (from.max(from_ns), to.min(to_ns));
        let windows = windows(played).into_iter().filter(inside).map(cut).collect();
        Some(Axis { from_ns, to_ns, zero_ns: first, windows })
    }

    /// Where a time lies.
    pub fn x(&self, at_ns: u64) -> f64 {
        let at = at_ns.clamp(self.from_ns, self.to_ns) - self.from_ns;
        LEFT + at as f64 / (self.to_ns - self.from_ns) as f64 * (RIGHT - LEFT)
    }

    /// A time in words, from the first event on.
    pub fn text(&self, at_ns: u64) -> String {
        if at_ns >= self.zero_ns {
            format!("+{}", time((at_ns - self.zero_ns) as f64))
        } else {
            format!("−{}", time((self.zero_ns - at_ns) as f64))
        }
    }

    /// Whether a time is inside a window.
    pub fn in_window(&self, at_ns: u64) -> bool {
        self.windows.iter().any(|&(from, to)| from <= at_ns && at_ns <= to)
    }

    /// Lines and numbers at round times.
    pub fn ticks(&self, out: &mut String, bottom: f64) {
        let span = self.to_ns - self.zero_ns;
        let step = round_step(span / 6);
        for tick in 0..=span / step {
            let at = self.zero_ns + tick * step;
            let x = self.x(at);
            let _ = write!(
                out,
                "<line class=\"tick\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"16\" y2=\"{bottom}\"/>"
            );
            // A number that would run over the edge is left out.
            if x + 24.0 <= RIGHT {
                let text = if tick == 0 { "0".to_owned() } else { whole(tick * step) };
                let y = bottom + 15.0;
                let _ = write!(out, "<text class=\"tick\" x=\"{x:.1}\" y=\"{y}\">{text}</text>");
            }
        }
    }
}

/// The next of 1, 2, 5, 10, 20, ... that is not below `least`, which may be 0.
fn round_step(least: u64) -> u64 {
    let mut unit = 1;
    loop {
        if let Some(step) = [unit, 2 * unit, 5 * unit].into_iter().find(|&step| step >= least) {
            return step;
        }
        unit *= 10;
    }
}

/// A round time without digits that are all zero.
fn whole(ns: u64) -> String {
    match ns {
        _ if ns.is_multiple_of(1_000_000_000) => format!("{} s", ns / 1_000_000_000),
        _ if ns.is_multiple_of(1_000_000) => format!("{} ms", ns / 1_000_000),
        _ if ns >= 1_000_000 => format!("{} ms", ns as f64 / 1e6),
        _ => format!("{} µs", ns as f64 / 1e3),
    }
}

/// When at least one request was parked, in CLOCK_MONOTONIC.
pub fn windows(played: &Played) -> Vec<(u64, u64)> {
    let start = played.gate_start_ns;
    let holds = played.records.iter().flat_map(|record| &record.holds);
    let mut stays: Vec<(u64, u64)> =
        holds.filter_map(|hold| Some((hold.parked + start, hold.released? + start))).collect();
    stays.sort_unstable();
    let mut windows: Vec<(u64, u64)> = Vec::new();
    for (from, to) in stays {
        match windows.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => windows.push((from, to)),
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{event, record};

    #[test]
    fn steps_and_their_names_are_round() {
        assert_eq!([0, 1, 3, 10, 11, 450].map(round_step), [1, 1, 5, 10, 20, 500]);
        let texts = [500, 20_000, 1_500_000, 2_000_000, 3_000_000_000].map(whole);
        assert_eq!(texts, ["0.5 µs", "20 µs", "1.5 ms", "2 ms", "3 s"]);
    }

    #[test]
    fn windows_that_touch_are_one_and_the_axis_cuts_them() {
        let mut played = Played { gate_start_ns: 1000, ..Played::default() };
        played.records = vec![record(1, 100, 300), record(2, 200, 400), record(3, 900, 9_000_000)];
        assert_eq!(windows(&played), [(1100, 1400), (1900, 9_001_000)]);
        assert!(Axis::of(&played).is_none(), "nothing happened");
        played.events = vec![event(1_000, "a"), event(101_000, "b")];
        let axis = Axis::of(&played).unwrap();
        assert_eq!((axis.x(0), axis.x(axis.from_ns), axis.x(u64::MAX)), (LEFT, LEFT, RIGHT));
        assert_eq!(axis.windows[1], (1900, axis.to_ns));
        assert!(axis.in_window(1200) && !axis.in_window(1500));
        assert_eq!((axis.text(2_000), axis.text(0)), ("+1.00 µs".into(), "−1.00 µs".into()));
    }
}
