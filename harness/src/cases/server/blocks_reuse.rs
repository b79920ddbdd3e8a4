//! BK1: a file loses blocks under a read, and a neighbour grows at once to where they lie.
//!
//! The neighbour's last block precedes the file's first one, so its next blocks are best put where the file's
//! were. It must not get them while the read is under way, the file must not show them when it grows back, and
//! of a block that it gets only in part it must not see what was there.

use std::fs::File;
use std::os::fd::AsFd;

use anyhow::Context;
use inflight_gate::Phase;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::stamp::Legal;

pub const CASE: Case = Case {
    id: "BK1",
    name: "blocks-reuse",
    claim: "blocks that a file loses under a read go to nobody before the read is over, and then without their bytes",
    groups: &["quick", "server"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

/// Large enough for the spliced reply path.
const LEN: usize = 256 << 10;
const BLOCK: usize = 4096;

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for act in ["truncate", "punch"] {
        for phase in [Phase::Received, Phase::Prepared, Phase::Applied, Phase::Piped] {
            all.push(Variant::new(act).phase(phase));
            // The reply refers to the image's page cache, and the neighbour writes there.
            all.push(Variant::new(act).phase(phase).mount("read=buffered,write=buffered"));
        }
    }
    // The hole that is left is read into a buffer that had other bytes.
    all.push(Variant::new("truncate").phase(Phase::Received).mount("read=copy"));
    all.push(Variant::new("edge"));
    all
}

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let neighbour = fixture.file(BLOCK as u64)?;
    let file = fixture.file(LEN as u64)?;
    if variant.act == "edge" {
        return edge(fixture, &neighbour, &file);
    }
    // Direct: a reader through the page cache would see the new size, and none of the bytes.
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    let parked = fixture.park("read", &file, (0, LEN as u64), variant.phase_or_received())?;
    let flight = fixture.start(Engine::Pread, Io::read(&handle, &buffer, 0..LEN, 0))?;
    fixture.meet(parked, 1)?;
    let mut change = None;
    if fixture.race() {
        change = Some(lose(fixture, &file, variant.act)?);
        commit(fixture)?;
    }
    grow(fixture, &neighbour, BLOCK, &neighbour.content(2, BLOCK as u64, LEN))?;
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    let legal: &[Legal] =
        if fixture.race() { &[file.generation(1), file.hole()] } else { &[file.generation(1)] };
    match done {
        // Only a truncate makes the file shorter.
        Ok(count) if count <= LEN && fixture.race() && variant.act == "truncate" => {
            fixture.judge("the read", &buffer.bytes(0, count), 0, legal);
        }
        other if fixture.count("the read", other, LEN) => {
            fixture.judge("the read", &buffer.bytes(0, LEN), 0, legal);
        }
        _ => {}
    }
    if let Some(change) = change {
        change.join()??;
    }
    let writer = fixture.open(&file, Open::Buffered)?;
    nix::unistd::ftruncate(writer.as_fd(), LEN as i64).context("ftruncate")?;
    let bytes = whole(fixture, &file, LEN)?;
    fixture.judge("the file", &bytes, 0, legal);
    if fixture.race() && fixture.faults.is_empty() {
        fixture.judge("the file", &bytes, 0, &[file.hole()]);
    }
    let bytes = whole(fixture, &neighbour, BLOCK + LEN)?;
    fixture.judge("the neighbour", &bytes[..BLOCK], 0, &[neighbour.generation(1)]);
    fixture.judge("its growth", &bytes[BLOCK..], BLOCK as u64, &[neighbour.generation(2)]);
    Ok(())
}

/// The neighbour gets a block of the file's that is free by now, and writes into the middle of it.
fn edge(fixture: &mut Fixture<'_>, neighbour: &Stamped, file: &Stamped) -> anyhow::Result<()> {
    if fixture.race() {
        lose(fixture, file, "truncate")?.join()??;
        commit(fixture)?;
    }
    let at = BLOCK + 1024;
    grow(fixture, neighbour, at, &neighbour.content(2, at as u64, 512))?;
    let writer = fixture.open(neighbour, Open::Buffered)?;
    nix::unistd::ftruncate(writer.as_fd(), 2 * BLOCK as i64).context("ftruncate")?;
    let bytes = whole(fixture, neighbour, 2 * BLOCK)?;
    fixture.judge("the neighbour", &bytes[..BLOCK], 0, &[neighbour.generation(1)]);
    fixture.judge("before the write", &bytes[BLOCK..at], BLOCK as u64, &[neighbour.hole()]);
    fixture.judge("the write", &bytes[at..at + 512], at as u64, &[neighbour.generation(2)]);
    fixture.judge("behind the write", &bytes[at + 512..], at as u64 + 512, &[neighbour.hole()]);
    Ok(())
}

type Losing = crate::fixture::Aside<nix::Result<()>>;

/// Returns when the server has taken the file's blocks from it.
fn lose(fixture: &mut Fixture<'_>, file: &Stamped, action: &str) -> anyhow::Result<Losing> {
    let other = fixture.open(file, Open::Buffered)?;
    if action == "truncate" {
        return fixture.change("setattr", file, action, move || nix::unistd::ftruncate(other, 0));
    }
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fixture.change("fallocate", file, action, move || fallocate(other, hole, 0, LEN as i64))
}

/// Only a commit makes freed blocks free.
fn commit(fixture: &mut Fixture<'_>) -> anyhow::Result<()> {
    File::open(fixture.folder())?.sync_all().context("fsync of the folder")
}

/// Writes directly, so that the request has the bytes of this write and no others.
fn grow(fixture: &mut Fixture<'_>, file: &Stamped, at: usize, bytes: &[u8]) -> anyhow::Result<()> {
    fixture.event(Actor::Racer, "the neighbour grows");
    let writer = fixture.open(file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, bytes.len().next_multiple_of(BLOCK))?;
    buffer.write(0, bytes);
    let io = Io::write(&writer, &buffer, 0..bytes.len(), at as u64);
    let done = fixture.transfer(Engine::Pread, io)?;
    fixture.count("the growth", done, bytes.len());
    writer.sync_all().context("fsync")
}

/// The server's bytes, not those of the page cache.
fn whole(fixture: &mut Fixture<'_>, file: &Stamped, len: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let reader = fixture.open(file, Open::Direct)?;
    let got = fixture.read(&reader, 0, len)?.map_err(anyhow::Error::from)?;
    if fixture.count("read after", Ok(got.len()), len) {
        bytes.copy_from_slice(&got);
    }
    Ok(bytes)
}
