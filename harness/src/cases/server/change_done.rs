//! WR1: a write or a truncate that takes its time in the server, or another write beside it.
//!
//! When the call has returned, everybody sees the change: a server that answers first and works later is found
//! by a reader that comes at once. And a write that is served while another is held is served all the same.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::Context;
use inflight_gate::{Action, Hold, Phase, ReleasedBy};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::verdict::{Class, no_proof, not_run};
use crate::target::Target;

pub const CASE: Case = Case {
    id: "WR1",
    name: "change-done",
    claim: "a write or truncate that returned is seen by everybody, however long the server took and whatever it did beside it",
    groups: &["quick", "server"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

const LEN: usize = 16384;
const PART: usize = 4096;
/// How long the server takes, ms. An honest one may take any time; one that answers first is late by this.
const SLOW: u64 = 20;

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Aio, Engine::Uring] {
        all.push(Variant::new("write").engine(engine));
    }
    all.push(Variant::new("truncate"));
    for phase in [Phase::Received, Phase::Prepared, Phase::Applied] {
        all.push(Variant::new("beside").phase(phase));
    }
    all
}

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    match variant.act {
        "write" => write(fixture, &file, variant.engine_or_pread()),
        "truncate" => truncate(fixture, &file),
        _ => beside(fixture, &file, variant.phase_or_received()),
    }
}

fn write(fixture: &mut Fixture<'_>, file: &Stamped, engine: Engine) -> anyhow::Result<()> {
    let (handle, reader) = (fixture.open(file, Open::Direct)?, fixture.open(file, Open::Direct)?);
    slow_down(fixture, "write", file)?;
    let buffer = Buffer::new(Memory::Anon, PART)?;
    buffer.write(0, &file.content(2, 0, PART));
    let done = fixture.transfer(engine, Io::write(&handle, &buffer, 0..PART, 0))?;
    fixture.count("the write", done, PART);
    let ino = handle.metadata()?.ino();
    settle(fixture, "write", ino)?;
    let bytes = fixture.read(&reader, 0, LEN)?.map_err(anyhow::Error::from)?;
    if fixture.count("read after", Ok(bytes.len()), LEN) {
        fixture.judge("the write", &bytes[..PART], 0, &[file.generation(2)]);
        fixture.judge("the rest", &bytes[PART..], PART as u64, &[file.generation(1)]);
    }
    settle_always(fixture, "write", ino)?;
    prove(fixture, "write", ino)
}

fn truncate(fixture: &mut Fixture<'_>, file: &Stamped) -> anyhow::Result<()> {
    let handle = fixture.open(file, Open::Buffered)?;
    slow_down(fixture, "setattr", file)?;
    fixture.event(Actor::Test, "ftruncate");
    nix::unistd::ftruncate(handle.as_fd(), PART as i64).context("ftruncate")?;
    let ino = handle.metadata()?.ino();
    settle(fixture, "setattr", ino)?;
    // Of the size the kernel believes itself; where data is only the server knows.
    let beyond = lseek64(&handle, 2 * PART as i64, Whence::SeekData);
    if beyond != Err(Errno::ENXIO) {
        let text = format!("behind the new end SEEK_DATA says {beyond:?}, must be ENXIO");
        fixture.fault(Class::Resurrected, text);
    }
    settle_always(fixture, "setattr", ino)?;
    prove(fixture, "setattr", ino)
}

/// Two writes to two blocks; in the race the first is held while the second comes and goes.
fn beside(fixture: &mut Fixture<'_>, file: &Stamped, phase: Phase) -> anyhow::Result<()> {
    let handle = fixture.open(file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    buffer.write(0, &file.content(2, 0, LEN));
    let at = 2 * PART;
    let (first, second) = (
        Io::write(&handle, &buffer, 0..PART, 0),
        Io::write(&handle, &buffer, at..at + PART, at as u64),
    );
    if matches!(fixture.mounted().target(), Target::Server(_)) {
        let text = "whether two direct writes of a file go together is the server's choice";
        return Err(not_run(format!("{text} (FOPEN_PARALLEL_DIRECT_WRITES)")));
    }
    if fixture.race() {
        let parked = fixture.park("write", file, (0, PART as u64), phase)?;
        // A synchronous direct write would hold the inode.
        let flight = fixture.start(Engine::Uring, first)?;
        fixture.meet(parked, 1)?;
        let done = fixture.transfer(Engine::Pread, second)?;
        fixture.count("the write beside", done, PART);
        fixture.release(parked)?;
        let done = fixture.finish(flight)?;
        fixture.count("the held write", done, PART);
    } else {
        for io in [first, second] {
            let done = fixture.transfer(Engine::Uring, io)?;
            fixture.count("a write", done, PART);
        }
    }
    let bytes = fixture.read(&handle, 0, LEN)?.map_err(anyhow::Error::from)?;
    if fixture.count("read after", Ok(bytes.len()), LEN) {
        for (number, part) in bytes.chunks(PART).enumerate() {
            let generation = if number % 2 == 0 { 2 } else { 1 };
            let legal = [file.generation(generation)];
            fixture.judge("the file", part, (number * PART) as u64, &legal);
        }
    }
    Ok(())
}

/// In the race the next request of this kind takes its time.
fn slow_down(fixture: &mut Fixture<'_>, op: &str, file: &Stamped) -> anyhow::Result<()> {
    if fixture.race() {
        let slow = Action::Delay(SLOW);
        fixture.park_with(op, file, Phase::Received, |rule| rule.count(1).action(slow))?;
    }
    Ok(())
}

/// That the gate has delayed a request.
fn prove(fixture: &mut Fixture<'_>, op: &str, ino: u64) -> anyhow::Result<()> {
    let is_slow = |hold: &Hold| hold.by == Some(ReleasedBy::Delay);
    let requests = fixture.requests(op, ino)?;
    if fixture.race() && !requests.iter().any(|record| record.holds.iter().any(is_slow)) {
        return Err(no_proof(format!("no {op} was slowed down")));
    }
    Ok(())
}

/// Without the race nobody looks before the server is done.
fn settle(fixture: &mut Fixture<'_>, op: &str, ino: u64) -> anyhow::Result<()> {
    if fixture.race() { Ok(()) } else { settle_always(fixture, op, ino) }
}

fn settle_always(fixture: &mut Fixture<'_>, op: &str, ino: u64) -> anyhow::Result<()> {
    let end = std::time::Instant::now() + bound();
    while fixture.requests(op, ino)?.iter().any(|record| record.outcome.is_none()) {
        anyhow::ensure!(std::time::Instant::now() < end, "{op} is never over");
        fixture.next_record(Duration::from_millis(50))?;
    }
    Ok(())
}
