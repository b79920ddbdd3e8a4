//! TR7: a file is cut inside a block and grows again while a direct read of the block is in flight.
//!
//! The kernel tells the server a size and no more: what the cut took off the last block is the server's to
//! clear, whether the file grows by truncate, write or fallocate.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use anyhow::Context;
use inflight_gate::Phase;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::case::{Case, Reach};
use crate::engine::{Engine, Io};
use crate::event::Actor;
use crate::memory::{Buffer, Memory};
use crate::scene::{Open, Scene};
use crate::stamp::Legal;
use crate::variant::Variant;

pub const CASE: Case = Case {
    id: "TR7",
    name: "truncate-tail",
    claim: "what a truncate cuts off a file's last block stays gone when the file grows, with a read in flight",
    groups: &["quick", "truncate"],
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

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = scene.file(LEN as u64)?;
    let handle = scene.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    let parked = scene.park("read", &file, (0, LEN as u64), variant.phase_or_received())?;
    let flight = scene.start(Engine::Pread, Io::read(&handle, &buffer, 0..LEN, 0))?;
    scene.meet(parked, 1)?;
    let writer = scene.open(&file, Open::Buffered)?;
    if scene.race() {
        let other = writer.try_clone()?;
        let cut = scene.change("setattr", &file, "cut inside a block", move || {
            nix::unistd::ftruncate(other, CUT as i64)
        })?;
        cut.join()?.context("ftruncate")?;
    }
    scene.event(Actor::Racer, format!("grow by {}", variant.act));
    let bytes = file.content(2, LEN as u64, GROWN - LEN);
    match variant.act {
        "truncate" => nix::unistd::ftruncate(writer.as_fd(), GROWN as i64)?,
        "fallocate" => fallocate(writer.as_fd(), FallocateFlags::empty(), 0, GROWN as i64)?,
        _ => writer.write_all_at(&bytes, LEN as u64).context("write")?,
    }
    writer.sync_all().context("fsync")?;
    scene.release(parked)?;
    let done = scene.finish(flight)?;
    let kept = if scene.race() { CUT } else { LEN };
    if scene.count("the read", done, LEN) {
        let read = buffer.bytes(0, LEN);
        scene.judge("the read", &read[..kept], 0, &[file.generation(1)]);
        let legal = [file.generation(1), Legal::Zero];
        scene.judge("the read", &read[kept..], kept as u64, &legal);
    }
    let read = scene.read(&handle, 0, GROWN)?.map_err(anyhow::Error::from)?;
    if scene.count("read after", Ok(read.len()), GROWN) {
        scene.judge("the file", &read[..kept], 0, &[file.generation(1)]);
        scene.judge("what was cut off", &read[kept..LEN], kept as u64, &[Legal::Zero]);
        let grown = if variant.act == "write" { file.generation(2) } else { Legal::Zero };
        scene.judge("what was added", &read[LEN..], LEN as u64, &[grown]);
    }
    Ok(())
}
