//! FK4: what is safe beside fork on every kernel: MADV_DONTFORK, a read through the page cache, and children that
//! get no copy of the memory (vfork, CLONE_VM, posix_spawn).
//!
//! These are the workarounds that programs use. They must hold everywhere, also where FK1 must fail.

use inflight_gate::Phase;
use nix::sys::mman::MmapAdvise;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::fork::{Task, sharer, spawn_and_wait};
use crate::kit::memory::{Buffer, Memory};

pub const CASE: Case = Case {
    id: "FK4",
    name: "fork-controls",
    claim: "with MADV_DONTFORK, through the page cache, or with a child that shares the memory, a read beside a new process and a store is safe",
    groups: &["quick", "fork"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Preadv, Engine::Aio, Engine::Uring] {
        all.push(Variant::new("dontfork").engine(engine));
        all.push(Variant::new("buffered").engine(engine));
    }
    for act in ["vfork", "clone-vm", "spawn"] {
        for engine in [Engine::Pread, Engine::Uring] {
            all.push(Variant::new(act).engine(engine));
        }
    }
    all
}

/// Bytes for the stack of a child that has only ours.
const STACK: usize = 64 << 10;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let half = fixture.grain().max(2048);
    let file = fixture.file(8192)?;
    let is_direct = variant.act != "buffered";
    let how = if is_direct { Open::Direct } else { Open::Buffered };
    let handle = fixture.open(&file, how)?;
    let buffer = Buffer::new(Memory::Anon, 8192)?;
    if variant.act == "dontfork" {
        buffer.advise(MmapAdvise::MADV_DONTFORK)?;
    }
    let parked = fixture.park("read", &file, (0, half as u64), Phase::Received)?;
    let io = Io::read(&handle, &buffer, 0..half, 0);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    fixture.meet(parked, 1)?;
    // Outlives the child that runs on it.
    let stack = Buffer::new(Memory::Anon, STACK)?;
    let mut child = None;
    if fixture.race() {
        fixture.event(Actor::Racer, variant.act);
        match variant.act {
            "vfork" | "clone-vm" => child = Some(sharer(&stack, variant.act == "vfork")?),
            "spawn" => spawn_and_wait(bound())?,
            _ => child = Some(fixture.fork(Task::Exit)?),
        }
        fixture.event(Actor::Racer, "store");
        buffer.store(half + 100, 1);
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the read", done, half);
    fixture.judge("parent", &buffer.bytes(0, half), 0, &[file.generation(1)]);
    child.map_or(Ok(()), |child| child.finish(bound()).map(drop))
}
