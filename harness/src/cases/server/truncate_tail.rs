//! TR7: a file is cut inside a block and grows again while a direct read of the block is in flight.
//!
//! The kernel tells the server a size and no more: what the cut took off the last block is the server's to
//! clear, whether the file grows by truncate, write or fallocate.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use anyhow::Context;
use inflight_gate::Phase;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::memory::{Buffer, Memory};

pub const CASE: Case = Case {
    id: "TR7",
    name: "truncate-tail",
    claim: "what a truncate cuts off a file's last block stays gone when the file grows, with a read in flight",
    groups: &["quick", "server"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for act in ["truncate", "write", "fallocate"] {
        for phase in [Phase::Received, Phase::Applied] {
            all.push(Variant::new(act).phase(phase));
        }
    }
    all
}

const LEN: usize = 8192;
/// In the second block.
const CUT: usize = 5000;
const GROWN: usize = 16384;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    let parked = fixture.park("read", &file, (0, LEN as u64), variant.phase_or_received())?;
    let flight = fixture.start(Engine::Pread, Io::read(&handle, &buffer, 0..LEN, 0))?;
    fixture.meet(parked, 1)?;
    let writer = fixture.open(&file, Open::Buffered)?;
    if fixture.race() {
        let other = writer.try_clone()?;
        let cut = fixture.change("setattr", &file, "cut inside a block", move || {
            nix::unistd::ftruncate(other, CUT as i64)
        })?;
        cut.join()?.context("ftruncate")?;
    }
    fixture.event(Actor::Racer, format!("grow by {}", variant.act));
    let bytes = file.content(2, LEN as u64, GROWN - LEN);
    match variant.act {
        "truncate" => nix::unistd::ftruncate(writer.as_fd(), GROWN as i64)?,
        "fallocate" => fallocate(writer.as_fd(), FallocateFlags::empty(), 0, GROWN as i64)?,
        _ => writer.write_all_at(&bytes, LEN as u64).context("write")?,
    }
    writer.sync_all().context("fsync")?;
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    let kept = if fixture.race() { CUT } else { LEN };
    if fixture.count("the read", done, LEN) {
        let read = buffer.bytes(0, LEN);
        fixture.judge("the read", &read[..kept], 0, &[file.generation(1)]);
        let legal = [file.generation(1), file.hole()];
        fixture.judge("the read", &read[kept..], kept as u64, &legal);
    }
    let read = fixture.read(&handle, 0, GROWN)?.map_err(anyhow::Error::from)?;
    if fixture.count("read after", Ok(read.len()), GROWN) {
        fixture.judge("the file", &read[..kept], 0, &[file.generation(1)]);
        fixture.judge("what was cut off", &read[kept..LEN], kept as u64, &[file.hole()]);
        let grown = if variant.act == "write" { file.generation(2) } else { file.hole() };
        fixture.judge("what was added", &read[LEN..], LEN as u64, &[grown]);
    }
    Ok(())
}
