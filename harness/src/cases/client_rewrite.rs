//! SP4: a program changes its buffer while a direct write from it is in flight, and again when it is over.
//!
//! What it changes during the write may or may not be written; what it changes afterwards must not be.
//! A server that splices requests into a pipe and a kernel that gives it the program's own pages break this
//! (CVE-2022-1011).

use inflight::gate::Phase;

use crate::case::{Case, Reach};
use crate::engine::{Engine, Io};
use crate::event::Actor;
use crate::memory::{Buffer, Memory};
use crate::scene::{Open, Scene};
use crate::variant::Variant;

pub const CASE: Case = Case {
    id: "SP4",
    name: "client-rewrite",
    claim: "a direct write stores what its buffer held while it was in flight, and nothing that came later",
    groups: &["quick", "splice", "write"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Aio, Engine::Uring] {
        for phase in [Phase::Received, Phase::Prepared, Phase::Applied] {
            all.push(Variant::new("rewrite").engine(engine).phase(phase));
        }
    }
    all
}

const LEN: usize = 65536;

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = scene.file(LEN as u64)?;
    let handle = scene.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    buffer.write(0, &file.content(2, 0, LEN));
    // Behind a loop device the request is cut up: it is enough to hold its first block.
    let parked = scene.park("write", &file, (0, 4096), variant.phase_or_received())?;
    let io = Io::write(&handle, &buffer, 0..LEN, 0);
    let flight = scene.start(variant.engine_or_pread(), io)?;
    scene.meet(parked, 1)?;
    let mut legal = vec![file.generation(2)];
    if scene.race() {
        scene.event(Actor::Racer, "rewrite in flight");
        buffer.write(0, &file.content(3, 0, LEN));
        legal.push(file.generation(3));
    }
    scene.release(parked)?;
    let done = scene.finish(flight)?;
    scene.count("the write", done, LEN);
    scene.event(Actor::Racer, "rewrite afterwards");
    buffer.write(0, &file.content(4, 0, LEN));
    scene.forget(&file)?;
    let reader = scene.open(&file, Open::Buffered)?;
    let bytes = scene.read(&reader, 0, LEN)?.map_err(anyhow::Error::from)?;
    if scene.count("read", Ok(bytes.len()), LEN) {
        scene.judge("the file", &bytes, 0, &legal);
    }
    Ok(())
}
