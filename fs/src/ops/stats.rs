//! What the server counts, for `inflight stat`.

use crate::image::space::Usage;
use crate::ops::Fs;
use crate::ops::flights::{Asked, Begun, Flights, Flying, Process};
use crate::ops::ways::Way;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const WAYS: [Way; 5] =
    [Way::Copy, Way::CopyDirect, Way::SpliceBuffered, Way::SpliceDirect, Way::PipeBacked];

/// Counters of one mount.
#[derive(Debug, Default)]
pub struct Stats {
    reads: [Counter; WAYS.len()],
    writes: [Counter; 2],
    flights: Flights,
    operations: Mutex<BTreeMap<&'static str, Timing>>,
    transport: OnceLock<String>,
}

#[derive(Debug, Default)]
struct Counter {
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Counter {
    fn add(&self, bytes: usize) {
        self.requests.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    fn get(&self) -> Count {
        Count { requests: self.requests.load(Relaxed), bytes: self.bytes.load(Relaxed) }
    }
}

impl Stats {
    /// A read was answered.
    pub fn read(&self, way: Way, bytes: usize) {
        self.reads[way as usize].add(bytes);
    }

    pub(super) fn wrote(&self, direct: bool, bytes: usize) {
        self.writes[usize::from(direct)].add(bytes);
    }

    /// Which transport serves, and why; the first word on it holds.
    pub fn serves_by(&self, transport: String) {
        let _ = self.transport.set(transport);
    }

    /// A request arrived.
    pub fn begin(&self, asked: Asked) -> Begun {
        self.flights.begin(asked)
    }

    /// WRITE payloads that are in the image.
    pub fn writes(&self) -> u64 {
        self.writes.iter().map(|counter| counter.get().requests).sum()
    }

    /// A request was answered.
    pub fn end(&self, begun: &Begun) {
        let after = self.flights.end(begun);
        let mut operations = self.operations.lock();
        let timing = operations.entry(begun.operation).or_default();
        timing.latency.saturating_record(after.as_nanos() as u64);
        timing.total_ns += after.as_nanos() as u64;
    }
}

/// How long an operation takes.
#[derive(Debug)]
struct Timing {
    latency: Histogram<u64>,
    total_ns: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        let minute = 60_000_000_000;
        let latency = Histogram::new_with_max(minute, 2).expect("constant, valid bounds");
        Timing { latency, total_ns: 0 }
    }
}

/// Requests and bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Count {
    /// Requests.
    pub requests: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Latency of one operation, in microseconds from arrival to reply.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// Longest.
    pub max_us: f64,
    /// All of them together.
    pub total_us: f64,
}

/// Everything, as `inflight stat --json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Path of the image.
    pub image: String,
    /// Server process.
    pub pid: u32,
    /// It does not write to the image, whatever the mount says.
    pub read_only: bool,
    /// Which transport serves, and why.
    pub transport: String,
    /// Replies to READ, by the way they took.
    pub reads: BTreeMap<&'static str, Count>,
    /// WRITE payloads: to the image's page cache, and past it.
    pub writes: BTreeMap<&'static str, Count>,
    /// Requests that have no answer yet.
    pub in_flight: u64,
    /// The oldest of them, a hundred at most.
    pub requests: Vec<Flying>,
    /// Who asked last, 64 processes at most.
    pub processes: Vec<Process>,
    /// Reads that hold blocks against reuse.
    pub pins: usize,
    /// Blocks.
    pub space: Usage,
    /// Inodes in memory.
    pub inodes_cached: usize,
    /// Commits so far.
    pub commits: u64,
    /// Buffers.
    pub pool: inflight_dio::PoolReport,
    /// Pipes.
    pub pipes: inflight_splice::PipeReport,
    /// Latencies, by operation.
    pub operations: BTreeMap<&'static str, Latency>,
}

impl Fs {
    /// The counters of now.
    pub fn report(&self) -> Report {
        let stats = &self.stats;
        let store = self.volume.store();
        let reads = WAYS.iter().map(|w| (w.name(), stats.reads[*w as usize].get())).collect();
        let writes = [("buffered", stats.writes[0].get()), ("direct", stats.writes[1].get())];
        let micros = |ns: u64| ns as f64 / 1000.0;
        let operations = stats.operations.lock();
        let latency = |Timing { latency: h, total_ns }: &Timing| Latency {
            count: h.len(),
            p50_us: micros(h.value_at_quantile(0.5)),
            p99_us: micros(h.value_at_quantile(0.99)),
            max_us: micros(h.max()),
            total_us: micros(*total_ns),
        };
        let (in_flight, requests, processes) = stats.flights.report();
        Report {
            image: store.disk().name().display().to_string(),
            pid: std::process::id(),
            read_only: self.options.read_only,
            transport: stats.transport.get().cloned().unwrap_or_else(|| "none".to_owned()),
            reads,
            writes: writes.into_iter().collect(),
            in_flight,
            requests,
            processes,
            pins: store.space().pins().held(),
            space: store.space().usage(),
            inodes_cached: self.volume.inodes_cached(),
            commits: store.durable(),
            pool: self.io.pool().report(),
            pipes: self.io.pipes().report(),
            operations: operations.iter().map(|(name, timing)| (*name, latency(timing))).collect(),
        }
    }
}
