//! KL3: the last descriptor is closed while an asynchronous read is in flight.
//!
//! The request holds the file: the server must see RELEASE once, and after the read was answered.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::Context;
use inflight_gate::{Phase, Record};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::verdict::{Class, Stop};

pub const CASE: Case = Case {
    id: "KL3",
    name: "close-inflight",
    claim: "a file that is closed with a read in flight is released once, after the read, and the read is whole",
    groups: &["quick", "abort"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

/// The server answers OPEN only where it is told to; otherwise RELEASE is never sent.
const OPTIONS: &str = "open_messages";

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Aio, Engine::Uring] {
        for phase in [Phase::Received, Phase::Prepared, Phase::Applied, Phase::Piped] {
            all.push(Variant::new("close").engine(engine).phase(phase).mount(OPTIONS));
        }
    }
    all
}

/// Large enough for the spliced reply path.
const LEN: usize = 256 << 10;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let ino = handle.metadata()?.ino();
    let before = settled(fixture, ino)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    let parked = fixture.park("read", &file, (0, LEN as u64), variant.phase_or_received())?;
    let flight = fixture.start(variant.engine_or_pread(), Io::read(&handle, &buffer, 0..LEN, 0))?;
    let seq = fixture.meet(parked, 1)?[0].id;
    let mut handle = Some(handle);
    if fixture.race() {
        fixture.event(Actor::Racer, "close");
        handle = None;
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the read", done, LEN);
    fixture.judge("buffer", &buffer.bytes(0, LEN), 0, &[file.generation(1)]);
    drop(handle);
    // io_uring and AIO drop the file when they please.
    let releases = releases(fixture, ino, before + 1)?;
    let fresh = &releases[before..];
    if fresh.len() != 1 {
        fixture.fault(Class::Errno, format!("released {} times", fresh.len()));
    }
    // The answer itself is logged only after the kernel has it: until the gate let it go there was none.
    let reads = fixture.requests("read", ino)?;
    let held = reads.iter().find(|read| read.seq == seq).and_then(|read| read.holds.last());
    let until = held.and_then(|hold| hold.released).context("the log has no parked read")?;
    if fresh[0].times.arrived < until {
        fixture.fault(Class::Errno, "released before the read was answered");
    }
    Ok(())
}

/// Waits for the RELEASE of every descriptor of the file but ours, for the kernel sends them when it pleases; gives how
/// many those are. The server has seen one OPEN for each descriptor, and for the first one CREATE, which is the
/// directory's: so without ours there are as many as there were OPENs.
fn settled(fixture: &mut Fixture<'_>, ino: u64) -> anyhow::Result<usize> {
    let opened = fixture.requests("open", ino)?.len();
    Ok(releases(fixture, ino, opened)?.len())
}

/// Waits until there are at least so many RELEASEs of a file.
fn releases(fixture: &mut Fixture<'_>, ino: u64, least: usize) -> anyhow::Result<Vec<Record>> {
    let end = Instant::now() + bound();
    loop {
        let releases = fixture.requests("release", ino)?;
        if releases.len() >= least {
            return Ok(releases);
        }
        if Instant::now() >= end {
            return Err(Stop::Hang("the file was never released".to_owned()).into());
        }
        fixture.next_record(Duration::from_millis(100))?;
    }
}
