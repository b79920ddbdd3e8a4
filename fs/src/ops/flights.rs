//! Requests that have no answer yet, and who asks.

use parking_lot::Mutex;
use serde::Serialize;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Processes that are remembered; those that were silent for longest are forgotten first.
const PROCESSES_MAX: usize = 1024;
/// Of each list, what a report has: it is also an extended attribute, of 64 KiB at most (xattr(7)).
const REQUESTS_TOLD: usize = 100;
const PROCESSES_TOLD: usize = 64;

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The operation, as the FUSE protocol calls it.
    pub operation: &'static str,
    /// The kernel's number of the request.
    pub unique: u64,
    /// The inode, or the directory of a request by name.
    pub ino: u64,
    /// First byte of the range, 0 for requests without one.
    pub offset: u64,
    /// Bytes of the range, 0 for requests without one.
    pub len: u64,
    /// Process that asks, 0 when the kernel does (readahead, write-back) or it is of another namespace.
    pub pid: u32,
}

/// A request that has begun, to be ended once.
#[derive(Debug)]
pub struct Begun {
    slot: usize,
    pub(super) operation: &'static str,
    since: Instant,
}

/// A request in flight.
#[derive(Clone, Debug, Serialize)]
pub struct Flying {
    /// The operation.
    pub operation: &'static str,
    /// The kernel's number of the request.
    pub unique: u64,
    /// The inode, or the directory of a request by name.
    pub ino: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes of the range.
    pub len: u64,
    /// Process that asks, 0 for the kernel.
    pub pid: u32,
    /// Microseconds since it arrived.
    pub age_us: u64,
    /// How far it got, where a gate knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<&'static str>,
    /// A gate holds it.
    pub parked: bool,
}

/// What a process asked for.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Process {
    /// Its number, 0 for the kernel.
    pub pid: u32,
    /// Requests so far.
    pub requests: u64,
    /// Bytes that they were about.
    pub bytes: u64,
}

/// All requests in flight.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    slots: Vec<Option<(Asked, Instant)>>,
    free: Vec<usize>,
    processes: HashMap<u32, Tally>,
}

#[derive(Clone, Copy, Debug)]
struct Tally {
    requests: u64,
    bytes: u64,
    last: Instant,
}

impl Flights {
    pub fn begin(&self, asked: Asked) -> Begun {
        let since = Instant::now();
        let mut table = self.0.lock();
        table.count(&asked, since);
        let slot = table.free.pop().unwrap_or_else(|| {
            table.slots.push(None);
            table.slots.len() - 1
        });
        table.slots[slot] = Some((asked, since));
        Begun { slot, operation: asked.operation, since }
    }

    pub fn end(&self, begun: &Begun) -> Duration {
        let mut table = self.0.lock();
        table.slots[begun.slot] = None;
        table.free.push(begun.slot);
        drop(table);
        begun.since.elapsed()
    }

    /// How many there are, the oldest of them, and who asked last.
    pub fn report(&self) -> (u64, Vec<Flying>, Vec<Process>) {
        let table = self.0.lock();
        let mut flying: Vec<(Asked, Instant)> = table.slots.iter().flatten().copied().collect();
        let mut tallies: Vec<(u32, Tally)> =
            table.processes.iter().map(|(pid, tally)| (*pid, *tally)).collect();
        drop(table);
        let count = flying.len() as u64;
        flying.sort_by_key(|(_, since)| *since);
        flying.truncate(REQUESTS_TOLD);
        tallies.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.last));
        tallies.truncate(PROCESSES_TOLD);
        let process = |(pid, Tally { requests, bytes, .. })| Process { pid, requests, bytes };
        let processes = tallies.into_iter().map(process).collect();
        (count, flying.iter().map(Flying::of).collect(), processes)
    }
}

impl Flying {
    fn of((asked, since): &(Asked, Instant)) -> Flying {
        let Asked { operation, unique, ino, offset, len, pid } = *asked;
        let age_us = since.elapsed().as_micros() as u64;
        Flying { operation, unique, ino, offset, len, pid, age_us, phase: None, parked: false }
    }
}

impl Table {
    fn count(&mut self, asked: &Asked, now: Instant) {
        if self.processes.len() >= PROCESSES_MAX && !self.processes.contains_key(&asked.pid) {
            let mut times: Vec<Instant> = self.processes.values().map(|tally| tally.last).collect();
            let (_, median, _) = times.select_nth_unstable(PROCESSES_MAX / 2);
            let median = *median;
            self.processes.retain(|_, tally| tally.last > median);
        }
        let tally = Tally { requests: 0, bytes: 0, last: now };
        let tally = self.processes.entry(asked.pid).or_insert(tally);
        tally.requests += 1;
        tally.bytes = tally.bytes.saturating_add(asked.len);
        tally.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pid: u32) -> Asked {
        Asked { operation: "read", unique: 1, ino: 2, offset: 0, len: 10, pid }
    }

    #[test]
    fn who_was_silent_for_longest_is_forgotten_first() {
        let flights = Flights::default();
        let all = 3 * PROCESSES_MAX as u32;
        for pid in 0..all {
            let begun = flights.begin(asked(pid));
            flights.end(&begun);
        }
        let table = flights.0.lock();
        assert!(table.processes.len() <= PROCESSES_MAX);
        assert!(table.processes.contains_key(&(all - 1)) && !table.processes.contains_key(&0));
        assert_eq!(table.slots.len(), 1, "a slot is used again");
    }

    #[test]
    fn a_report_has_the_oldest_requests_and_the_latest_processes() {
        let flights = Flights::default();
        let begun: Vec<Begun> = (0..200).map(|pid| flights.begin(asked(pid))).collect();
        flights.end(&flights.begin(asked(150)));
        flights.end(&begun[0]);
        let (count, flying, processes) = flights.report();
        assert_eq!((count, flying.len(), flying[0].pid), (199, REQUESTS_TOLD, 1));
        assert_eq!((processes[0].pid, processes[0].requests, processes[0].bytes), (150, 2, 20));
    }
}
