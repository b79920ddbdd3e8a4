//! Al Viro's open question (seed 002): what do small batches of pages cost against large ones?
//!
//! For each kind of page and each number of pages a call: a long pin taken and released (registration with
//! io_uring), an O_DIRECT read into one range, and an O_DIRECT read into as many single pages. Rounds are
//! interleaved and medians are taken, so that a machine that slows down slows everything down.
//!
//!     scripts/bench pages
//!     cargo run --release -p inflight-dio --example pages -- FILE [JSON [SVG]]

#[path = "pages/memory.rs"]
mod memory;
#[path = "pages/plot.rs"]
mod plot;

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use inflight_dio::iter::{IoIter, KernelPins, PinBackend, RingPins};
use inflight_dio::{DirectFile, Engine, Pool, PoolConfig, page_size};

use memory::{Kind, Memory};

/// Bytes that one measurement moves or pins.
const BYTES: usize = 8 << 20;
/// Measurements of each point.
const ROUNDS: usize = 9;
/// Pages a call.
const BATCHES: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Act {
    /// Extraction of our own memory: nothing is pinned.
    Borrow,
    /// FOLL_PIN|FOLL_LONGTERM taken and released.
    LongPin,
    /// O_DIRECT into one range, which the kernel pins.
    Read,
    /// O_DIRECT into single pages that do not lie side by side, each of which the kernel pins.
    Scattered,
}

const ACTS: [Act; 4] = [Act::Borrow, Act::LongPin, Act::Read, Act::Scattered];

impl Act {
    fn name(self) -> &'static str {
        match self {
            Act::Borrow => "extract our own memory",
            Act::LongPin => "pin for long and unpin",
            Act::Read => "O_DIRECT read, one range",
            Act::Scattered => "O_DIRECT read, single pages",
        }
    }
}

/// One line of the plot: a cost for each batch.
#[derive(Clone, Debug, serde::Serialize)]
struct Line {
    act: Act,
    kind: Kind,
    /// Nanoseconds a page, the median, for each of [`BATCHES`].
    ns_a_page: Vec<f64>,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("usage: pages FILE [JSON [SVG]] (at least 8 MiB)")?;
    let pool = Pool::new(PoolConfig { slabs: 8, ..PoolConfig::default() })?;
    let engine = Engine::new(&pool)?;
    let file = DirectFile::open(&path, false)?;
    let bench = Bench { engine, file, ring: RingPins::new(1)? };
    let mut memories = Vec::new();
    for kind in [Kind::Base, Kind::Thp, Kind::Hugetlb] {
        match Memory::new(kind, BYTES) {
            Ok(memory) => memories.push(memory),
            Err(why) => println!("{}: left out: {why:#}", kind.name()),
        }
    }
    let lines = bench.lines(&mut memories)?;
    print!("{}", table(&lines));
    println!("{}", answer(&lines));
    if let Some(json) = arguments.next() {
        let report = serde_json::json!({ "batches": BATCHES, "lines": lines });
        std::fs::write(&json, serde_json::to_vec_pretty(&report)?).context(json)?;
    }
    if let Some(svg) = arguments.next() {
        plot::plot(&svg, &BATCHES, &lines)?;
        println!("plot: {svg}");
    }
    Ok(())
}

struct Bench {
    engine: Engine,
    file: DirectFile,
    ring: RingPins,
}

impl Bench {
    fn lines(&self, memories: &mut [Memory]) -> Result<Vec<Line>> {
        let points = ACTS.len() * memories.len() * BATCHES.len();
        let mut samples: Vec<Vec<Duration>> = vec![Vec::new(); points];
        for _ in 0..ROUNDS {
            let mut point = samples.iter_mut();
            for memory in &mut *memories {
                for act in ACTS {
                    for pages in BATCHES {
                        let took = self.run(act, memory, pages)?;
                        point.next().expect("one a point").push(took);
                    }
                }
            }
        }
        let cost = |samples: &mut Vec<Duration>| {
            samples.sort_unstable();
            samples[ROUNDS / 2].as_nanos() as f64 / (BYTES / page_size()) as f64
        };
        let mut costs = samples.iter_mut().map(cost);
        let mut lines = Vec::new();
        for memory in memories {
            for act in ACTS {
                let ns_a_page = costs.by_ref().take(BATCHES.len()).collect();
                lines.push(Line { act, kind: memory.kind(), ns_a_page });
            }
        }
        lines.sort_by_key(|line| line.act as u8);
        Ok(lines)
    }

    fn run(&self, act: Act, memory: &mut Memory, pages: usize) -> Result<Duration> {
        let len = pages * page_size();
        let bytes = memory.bytes();
        let start = Instant::now();
        match act {
            Act::Borrow => extract(bytes, len, true, &KernelPins)?,
            Act::LongPin => extract(bytes, len, false, &self.ring)?,
            Act::Read => {
                for (index, range) in bytes.chunks_mut(len).enumerate() {
                    let mut iter = IoIter::ubuf(range);
                    self.engine.read_iter(&self.file, &mut iter, (index * len) as u64)?;
                }
            }
            Act::Scattered => {
                for (index, range) in bytes.chunks_mut(len).enumerate() {
                    // Backwards, so that no page follows its neighbour.
                    let mut iter = IoIter::iovec(range.chunks_mut(page_size()).rev());
                    self.engine.read_iter(&self.file, &mut iter, (index * len) as u64)?;
                }
            }
        }
        Ok(start.elapsed())
    }
}

/// Extracts all of it in batches, and lets each go at once.
fn extract(bytes: &mut [u8], len: usize, own: bool, backend: &dyn PinBackend) -> Result<()> {
    for range in bytes.chunks_mut(len) {
        let mut iter = if own { IoIter::kvec([range]) } else { IoIter::ubuf(range) };
        std::hint::black_box(iter.extract(len, 1, backend)?);
    }
    Ok(())
}

fn table(lines: &[Line]) -> String {
    let mut text = String::from("ns a page, by pages a call\n");
    let _ = write!(text, "{:<28} {:<8}", "", "");
    for pages in BATCHES {
        let _ = write!(text, "{pages:>8}");
    }
    for line in lines {
        let _ = write!(text, "\n{:<28} {:<8}", line.act.name(), line.kind.name());
        for cost in &line.ns_a_page {
            let _ = write!(text, "{cost:>8.0}");
        }
    }
    text + "\n"
}

/// The answer, from the figures of base pages.
fn answer(lines: &[Line]) -> String {
    let mut text = String::new();
    for act in [Act::LongPin, Act::Read, Act::Scattered] {
        let line = lines.iter().find(|line| line.act == act && line.kind == Kind::Base);
        let Some(line) = line else { continue };
        let of = |pages| {
            BATCHES
                .iter()
                .zip(&line.ns_a_page)
                .find(|(batch, _)| **batch == pages)
                .map_or(0.0, |(_, cost)| *cost)
        };
        let _ = writeln!(
            text,
            "{}: a page alone costs {:.1} times what it costs among 64, and {:.1} times what it costs among 512",
            act.name(),
            of(1) / of(64),
            of(1) / of(512),
        );
    }
    text
}
