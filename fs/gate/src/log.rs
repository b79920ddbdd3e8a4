//! The request log: one record a request, kept in memory, bounded.

use std::collections::{BTreeMap, VecDeque};

use inflight_fuse::abi::UNIQUE_RESEND;
use serde::{Deserialize, Serialize};

use super::{Phase, ReleasedBy, Subject};

/// Finished records that are kept; older ones are dropped and counted.
pub(super) const RECORDS_MAX: usize = 65_536;

/// Times of a request, in ns since the gate started (CLOCK_MONOTONIC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// When the request arrived. The gate's own first sight of it.
    pub arrived: u64,
    /// When each phase was reached, in the order of [`Phase::ALL`]; before any parking there.
    pub phases: [Option<u64>; 4],
    /// When it was seen that something waited unread, and this was read first then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<u64>,
    /// When the kernel stopped in the middle of copying it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copying: Option<u64>,
    /// When the answer of a server behind the proxy came; before any parking there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replied: Option<u64>,
    /// When an INTERRUPT for it came: a signal for whoever waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupted: Option<u64>,
    /// When its answer was about to be sent, so that all that the answer causes is later (or when it was
    /// dropped).
    pub done: Option<u64>,
}

impl Times {
    /// Notes that `phase` was reached.
    pub(super) fn reach(&mut self, phase: Phase, now_ns: u64) {
        let time = match phase {
            Phase::Queued => &mut self.queued,
            Phase::Copying => &mut self.copying,
            Phase::Replied => &mut self.replied,
            step => &mut self.phases[step as usize],
        };
        *time = Some(now_ns);
    }

    /// The phases that were reached, in the order of their times.
    pub fn reached(&self) -> Vec<(Phase, u64)> {
        let steps = Phase::ALL.into_iter().zip(self.phases);
        let others = [
            (Phase::Queued, self.queued),
            (Phase::Copying, self.copying),
            (Phase::Replied, self.replied),
        ];
        let mut reached: Vec<_> =
            steps.chain(others).filter_map(|(phase, at)| Some((phase, at?))).collect();
        reached.sort_by_key(|(_, at)| *at);
        reached
    }
}

/// One stay of a request at the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Rule that parked it.
    pub rule: u64,
    /// Where it was parked.
    pub phase: Phase,
    /// When, in ns since the gate started.
    pub parked: u64,
    /// Until when; `None` while it is parked.
    pub released: Option<u64>,
    /// Who let it go; `None` while it is parked.
    pub by: Option<ReleasedBy>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered with success and this many bytes (0 where bytes mean nothing).
    Bytes(u64),
    /// Answered with this errno (positive).
    Errno(i32),
    /// Never answered.
    Dropped,
    /// It was gone before it was read whole: whoever asked was killed, or the connection aborted. Or it never
    /// was: what was `queued` turned out to be another one.
    Withdrawn,
}

/// What happened to one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Number of arrival, from 1. Also the id of the request while it is parked.
    pub seq: u64,
    /// `fuse_in_header.unique`.
    pub unique: u64,
    /// FUSE opcode.
    pub opcode: u32,
    /// Its name, `?` when unknown.
    pub op: String,
    /// Node id.
    pub ino: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes of the range.
    pub len: u64,
    /// New size, for a SETATTR that changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Process that asked.
    pub pid: u32,
    /// User that asked.
    pub uid: u32,
    /// Data path that served it, e.g. `splice-buffered`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How it ended; `None` while it is being worked on.
    pub outcome: Option<Outcome>,
    /// When it was where.
    pub times: Times,
    /// Its stays at the gate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Hold>,
}

impl Record {
    fn new(seq: u64, subject: &Subject) -> Record {
        Record {
            seq,
            unique: subject.unique,
            opcode: subject.opcode.number(),
            op: subject.opcode.name().unwrap_or("?").to_owned(),
            ino: subject.ino,
            offset: subject.offset,
            len: subject.len,
            size: subject.size,
            pid: subject.pid,
            uid: subject.uid,
            path: None,
            outcome: None,
            times: Times::default(),
            holds: Vec::new(),
        }
    }

    /// The last phase that it reached.
    pub fn phase(&self) -> Option<Phase> {
        self.times.reached().last().map(|(phase, _)| *phase)
    }

    /// Whether it is parked.
    pub fn is_parked(&self) -> bool {
        self.holds.last().is_some_and(|hold| hold.released.is_none())
    }

    /// Whether somebody other than a client or a delay let it go, or it was not the one that was held, which voids a verdict.
    pub fn voided(&self) -> bool {
        let void = |by| {
            use ReleasedBy::{Overtaken, Shutdown, Watchdog};
            matches!(by, Some(Watchdog | Shutdown | Overtaken))
        };
        self.holds.iter().any(|hold| void(hold.by))
    }
}

/// The records: open ones by number, finished ones in the order in which they finished.
#[derive(Debug, Default)]
pub(super) struct Log {
    open: BTreeMap<u64, Record>,
    finished: VecDeque<Record>,
    last_seq: u64,
    /// Finished records so far, kept or not.
    pub finished_total: u64,
}

impl Log {
    /// Opens a record and gives its number.
    pub fn arrive(&mut self, subject: &Subject, now_ns: u64) -> u64 {
        self.last_seq += 1;
        let times = Times { arrived: now_ns, ..Times::default() };
        let record = Record { times, ..Record::new(self.last_seq, subject) };
        self.open.insert(self.last_seq, record);
        self.last_seq
    }

    /// Says what a request is that arrived before that was known.
    pub fn describe(&mut self, seq: u64, subject: &Subject) {
        let Some(record) = self.open.get_mut(&seq) else { return };
        let described = Record::new(seq, subject);
        let (times, holds) = (record.times, std::mem::take(&mut record.holds));
        *record = Record { times, holds, ..described };
    }

    /// The record of a request that is not finished.
    pub fn open(&mut self, seq: u64) -> Option<&mut Record> {
        self.open.get_mut(&seq)
    }

    /// Notes that an INTERRUPT came for the request of this `unique`, if it is still open.
    pub fn interrupt(&mut self, unique: u64, now_ns: u64) {
        let meant =
            |record: &&mut Record| record.unique & !UNIQUE_RESEND == unique & !UNIQUE_RESEND;
        if let Some(record) = self.open.values_mut().rev().find(meant) {
            record.times.interrupted.get_or_insert(now_ns);
        }
    }

    /// Whether a request that was ever parked is not finished.
    pub fn is_holding(&self) -> bool {
        self.open.values().any(|record| !record.holds.is_empty())
    }

    /// Whether the request with this number has arrived and is over.
    pub fn is_finished(&self, seq: u64) -> bool {
        seq <= self.last_seq && !self.open.contains_key(&seq)
    }

    /// Closes a record.
    pub fn finish(&mut self, seq: u64, outcome: Outcome, now_ns: u64) {
        let Some(mut record) = self.open.remove(&seq) else { return };
        record.outcome = Some(outcome);
        record.times.done.get_or_insert(now_ns);
        if self.finished.len() == RECORDS_MAX {
            self.finished.pop_front();
        }
        self.finished.push_back(record);
        self.finished_total += 1;
    }

    /// Number of the last request that arrived.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Up to `max` records that finished after the first `since` ones, how many of those were lost, and
    /// the `since` of the next call.
    pub fn since(&self, since: u64, max: usize) -> (Vec<Record>, u64, u64) {
        let first_kept = self.finished_total - self.finished.len() as u64;
        let from = since.clamp(first_kept, self.finished_total);
        let skip = (from - first_kept) as usize;
        let records: Vec<_> = self.finished.iter().skip(skip).take(max).cloned().collect();
        let next = from + records.len() as u64;
        (records, first_kept.saturating_sub(since), next)
    }

    /// The records that are still open, in order of arrival.
    pub fn unfinished(&self) -> Vec<Record> {
        self.open.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inflight_fuse::abi::Opcode;

    #[test]
    fn the_ring_is_bounded_and_says_what_it_dropped() {
        let mut log = Log::default();
        let subject = Subject { opcode: Opcode::READ, ..Subject::default() };
        for _ in 0..RECORDS_MAX + 10 {
            let seq = log.arrive(&subject, 1);
            log.finish(seq, Outcome::Bytes(0), 2);
        }
        let (records, lost, next) = log.since(0, 3);
        assert_eq!((records.len(), lost, records[0].seq, next), (3, 10, 11, 13));
        let (records, lost, next) = log.since(next, usize::MAX);
        assert_eq!((records.len(), lost), (RECORDS_MAX - 3, 0));
        assert_eq!(log.since(next, 9), (Vec::new(), 0, next));
    }

    #[test]
    fn a_record_survives_json() {
        let mut log = Log::default();
        let seq = log
            .arrive(&Subject { opcode: Opcode::SETATTR, size: Some(9), ..Subject::default() }, 1);
        let hold = Hold { rule: 1, phase: Phase::Applied, parked: 2, released: None, by: None };
        log.open(seq).unwrap().holds.push(hold);
        let record = log.unfinished().remove(0);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        assert!(text.contains(r#""op":"setattr""#), "{text}");
    }
}
