//! Moments: events of the harness and requests of the server, in one order of time.

use inflight_gate::{Outcome, Record};

use super::axis::Axis;
use crate::kit::event::{Actor, Event};
use crate::run::worker::Played;

/// Requests that are shown.
const REQUESTS: usize = 24;

/// Something that happened.
#[derive(Debug)]
pub struct Moment<'a> {
    /// CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// What it was.
    pub source: Source<'a>,
    /// Whether it fell into the window: for a request, that it came then and was not what was parked.
    pub in_window: bool,
}

/// Where a moment is known from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// The harness.
    Event(&'a Event),
    /// The gate's log, whose times count from this.
    Request(&'a Record, u64),
}

/// All that the axis covers, in order, and how many requests were left out.
pub fn all<'a>(played: &'a Played, axis: &Axis) -> (Vec<Moment<'a>>, usize) {
    let start = played.gate_start_ns;
    let mut shown: Vec<&Record> = played
        .records
        .iter()
        .filter(|record| {
            let to = record.times.done.map_or(u64::MAX, |done| done + start);
            to >= axis.from_ns && record.times.arrived + start <= axis.to_ns
        })
        .collect();
    // What was parked is always shown.
    shown.sort_by_key(|record| (record.holds.is_empty(), record.times.arrived));
    let more = shown.len().saturating_sub(REQUESTS);
    shown.truncate(REQUESTS);
    let requests = shown.into_iter().map(|record| {
        let at_ns = record.times.arrived + start;
        let in_window = record.holds.is_empty() && axis.in_window(at_ns);
        Moment { at_ns, source: Source::Request(record, start), in_window }
    });
    let events = played.events.iter().map(|event| {
        let in_window = event.actor == Actor::Racer && axis.in_window(event.at_ns);
        Moment { at_ns: event.at_ns, source: Source::Event(event), in_window }
    });
    let mut moments: Vec<Moment<'a>> = events.chain(requests).collect();
    moments.sort_by_key(|moment| moment.at_ns);
    (moments, more)
}

impl<'a> Moment<'a> {
    /// Name of its lane.
    pub fn lane(&self) -> &'static str {
        match self.source {
            Source::Request(..) => "server",
            Source::Event(event) => match event.actor {
                Actor::Test => "test",
                Actor::Racer => "racer",
                Actor::Gate => "gate",
            },
        }
    }

    /// Its record, if it is a request.
    pub fn record(&self) -> Option<&'a Record> {
        match self.source {
            Source::Request(record, _) => Some(record),
            Source::Event(_) => None,
        }
    }

    /// What happened, at full length.
    pub fn text(&self) -> String {
        let Some(record) = self.record() else { return self.brief() };
        let mut text = self.brief();
        if let Some(path) = &record.path {
            text.push_str(&format!(", by {path}"));
        }
        for hold in &record.holds {
            text.push_str(&format!(", parked at {}", hold.phase));
        }
        text
    }

    /// What happened, for the picture.
    pub fn brief(&self) -> String {
        match self.source {
            Source::Event(event) => event.text.clone(),
            Source::Request(record, _) => {
                let range = match record {
                    Record { size: Some(size), .. } => format!(" size {size}"),
                    Record { len: 0, .. } => String::new(),
                    Record { offset, len, .. } => format!(" {offset}+{len}"),
                };
                format!("{}{range} → {}", record.op, outcome(record))
            }
        }
    }
}

fn outcome(record: &Record) -> String {
    match record.outcome {
        Some(Outcome::Bytes(0)) if record.len == 0 => "done".to_owned(),
        Some(Outcome::Bytes(bytes)) => bytes.to_string(),
        Some(Outcome::Errno(errno)) => format!("{:?}", nix::errno::Errno::from_raw(errno)),
        Some(Outcome::Dropped) => "dropped".to_owned(),
        Some(Outcome::Withdrawn) => "withdrawn".to_owned(),
        None => "open".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{event, record};

    #[test]
    fn what_was_parked_is_shown_whatever_else_there_was() {
        let events = vec![event(0, "a"), event(1_000_000, "b")];
        let mut played = Played { events, ..Played::default() };
        for seq in 0..40 {
            let mut record = record(seq, seq * 10, seq * 10 + 5);
            if seq < 39 {
                record.holds.clear();
            }
            played.records.push(record);
        }
        let axis = Axis::of(&played).unwrap();
        let (moments, more) = all(&played, &axis);
        assert_eq!((moments.len(), more), (2 + REQUESTS, 16));
        assert!(moments.is_sorted_by_key(|moment| moment.at_ns));
        let parked = moments.iter().filter(|moment| moment.text().contains("parked at received"));
        assert_eq!(parked.count(), 1);
    }
}
