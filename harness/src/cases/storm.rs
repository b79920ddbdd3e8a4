//! ST1: everything at once on one file, on any mount: direct and buffered writers, readers of three kinds,
//! truncate, punch and fork.
//!
//! The oracle is chosen, not computed: the file only ever holds one of two generations or zeroes, and memory
//! starts as poison, so one stale or foreign block shows at once. How often a reader's window overlapped a
//! racer's is counted; without an overlap nothing was shown. A seed narrows the scenario and does not fix the
//! kernel's schedule.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::case::{Case, Reach};
use crate::engine::{Engine, Engines, Io};
use crate::fork::{Task, child};
use crate::memory::{Buffer, Memory};
use crate::scene::{BOUND, Open, Scene, Stamped};
use crate::stamp::{self, Legal};
use crate::variant::Variant;
use crate::verdict::{Class, Fault, no_proof};

pub const CASE: Case = Case {
    id: "ST1",
    name: "storm",
    claim: "whatever happens at once, a reader sees bytes that the file had, and its memory gets all that it was told",
    groups: &["storm"],
    reach: Reach::Any,
    variants: || ["mixed", "fork"].map(Variant::new).into(),
    run,
    expected: &[],
};

const LEN: usize = 256 << 10;
const PART: usize = 4096;
const PARTS: u64 = (LEN / PART) as u64;
/// Both bound a storm: what comes first ends it.
const ROUNDS: usize = 20_000;
const TIME: Duration = Duration::from_secs(5);

/// One racing action.
type Work = fn(&Sky, &File, &mut ChaCha8Rng) -> anyhow::Result<()>;

/// What the threads share.
struct Sky {
    file: Stamped,
    stop: AtomicBool,
    /// Racing actions that are under way now.
    racing: AtomicUsize,
    /// Racing actions that were done.
    raced: AtomicUsize,
    end: Instant,
}

impl Sky {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || Instant::now() >= self.end
    }
}

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = scene.file(LEN as u64)?;
    let time = if scene.race() { TIME } else { TIME / 10 };
    let sky = Arc::new(Sky {
        file: file.clone(),
        stop: AtomicBool::new(false),
        racing: AtomicUsize::new(0),
        raced: AtomicUsize::new(0),
        end: Instant::now() + time,
    });
    let seed = scene.seed();
    scene.note(format!("seed {seed}"));
    let mut racers = Vec::new();
    if scene.race() {
        let works: &[Work] = match variant.act {
            "fork" => &[forks, forks],
            _ => &[writes, truncates, punches, forks],
        };
        for (number, work) in works.iter().copied().enumerate() {
            let handle = scene.open(&file, Open::Buffered)?;
            let sky = Arc::clone(&sky);
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ (number as u64 + 1));
            racers.push(scene.aside("a racer", move || race(&sky, || work(&sky, &handle, &mut rng)))?);
        }
    }
    let mut readers = Vec::new();
    for (number, how) in [Open::Direct, Open::Buffered].into_iter().enumerate() {
        let handle = scene.open(&file, how)?;
        let sky = Arc::clone(&sky);
        let rng = ChaCha8Rng::seed_from_u64(seed ^ (0x100 + number as u64));
        let engine = if number == 0 { Engine::Uring } else { Engine::Pread };
        readers.push(scene.aside("a reader", move || read(&sky, &handle, engine, rng))?);
    }
    let (mut reads, mut overlaps) = (0, 0);
    for reader in readers {
        let seen = reader.join()??;
        reads += seen.reads;
        overlaps += seen.overlaps;
        scene.faults.extend(seen.fault);
    }
    sky.stop.store(true, Ordering::Relaxed);
    for racer in racers {
        racer.join()??;
    }
    let raced = sky.raced.load(Ordering::Relaxed);
    scene.note(format!("{reads} reads, {raced} racing actions, {overlaps} overlaps"));
    if scene.race() && overlaps == 0 && scene.faults.is_empty() {
        return Err(no_proof(format!("none of {reads} reads overlapped any of {raced} actions")));
    }
    Ok(())
}

/// Repeats an action, and says when it is under way.
fn race(sky: &Sky, mut action: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut round = 0;
    while round < ROUNDS && !sky.is_over() {
        sky.racing.fetch_add(1, Ordering::SeqCst);
        let done = action();
        sky.racing.fetch_sub(1, Ordering::SeqCst);
        sky.raced.fetch_add(1, Ordering::SeqCst);
        done?;
        round += 1;
    }
    Ok(())
}

fn writes(sky: &Sky, file: &File, rng: &mut ChaCha8Rng) -> anyhow::Result<()> {
    let at = rng.random_range(0..PARTS) * PART as u64;
    let generation = rng.random_range(1..=2);
    Ok(file.write_all_at(&sky.file.content(generation, at, PART), at)?)
}

fn truncates(_: &Sky, file: &File, rng: &mut ChaCha8Rng) -> anyhow::Result<()> {
    let at = rng.random_range(0..PARTS) * PART as u64 + rng.random_range(0..PART as u64);
    nix::unistd::ftruncate(file.as_fd(), at as i64)?;
    Ok(nix::unistd::ftruncate(file.as_fd(), LEN as i64)?)
}

fn punches(_: &Sky, file: &File, rng: &mut ChaCha8Rng) -> anyhow::Result<()> {
    let at = rng.random_range(0..PARTS) * PART as u64;
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file.as_fd(), flags, at as i64, PART as i64) {
        Err(Errno::EOPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}

fn forks(_: &Sky, _: &File, _: &mut ChaCha8Rng) -> anyhow::Result<()> {
    child(Task::Exit)?.finish(BOUND).map(drop)
}

#[derive(Default)]
struct Seen {
    reads: usize,
    overlaps: usize,
    fault: Option<Fault>,
}

/// Reads until the storm is over or something is wrong. A page is read in two halves into one page of
/// memory, with a store to a third place: what fork and references make of it is FK1, unarranged.
fn read(sky: &Sky, file: &File, engine: Engine, mut rng: ChaCha8Rng) -> anyhow::Result<Seen> {
    let mut engines = Engines::default();
    let mut seen = Seen::default();
    let legal = [1, 2].map(|generation| Legal::Generation(sky.file.id, generation));
    let legal = [legal[0], legal[1], Legal::Zero];
    let half = PART / 2;
    while seen.reads < ROUNDS && !sky.is_over() && seen.fault.is_none() {
        let buffer = Buffer::new(Memory::Anon, PART)?;
        let at = rng.random_range(0..PARTS) * PART as u64;
        let (raced, racing) = (sky.raced.load(Ordering::SeqCst), sky.racing.load(Ordering::SeqCst));
        let flight = engines.start(engine, Io::read(file, &buffer, 0..half, at))?;
        buffer.store(PART - 1, 1);
        let done = engines.finish(flight, BOUND)?;
        let overlapped = racing > 0 || sky.raced.load(Ordering::SeqCst) != raced;
        seen.overlaps += usize::from(overlapped);
        seen.reads += 1;
        let count = match done {
            Ok(count) if count <= half => count,
            other => {
                let text = format!("a read returned {other:?}, must be 0 to {half}");
                seen.fault = Some(Fault { class: Class::Errno, text });
                break;
            }
        };
        let bytes = buffer.bytes(0, count);
        seen.fault = stamp::judge("a read", &bytes, at, &legal).into_iter().next();
    }
    Ok(seen)
}
