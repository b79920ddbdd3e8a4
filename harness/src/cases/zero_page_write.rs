//! ZP1: a direct write from memory that nobody ever stored to: the kernel's one zero page.
//!
//! The zero page is shared by everybody, so it is neither pinned nor counted (6.5). A store while the write is
//! in flight gives the program a page of its own; the file gets zeroes, or the store's byte where that came
//! first, and the zero page stays zero.

use inflight::gate::Phase;

use crate::case::{Case, Reach};
use crate::engine::{Engine, Io};
use crate::event::Actor;
use crate::memory::{Buffer, Memory};
use crate::pins;
use crate::scene::{Open, Scene};
use crate::stamp::Legal;
use crate::variant::Variant;
use crate::verdict::Class;

pub const CASE: Case = Case {
    id: "ZP1",
    name: "zero-page-write",
    claim: "a direct write from untouched memory stores zeroes, and the zero page is neither pinned nor changed",
    groups: &["quick", "write"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for act in ["untouched", "read-touched"] {
        for engine in [Engine::Pread, Engine::Preadv, Engine::Aio, Engine::Uring] {
            all.push(Variant::new(act).engine(engine));
        }
    }
    all
}

const LEN: usize = 4096;

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = scene.file(LEN as u64)?;
    let handle = scene.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Zero, LEN)?;
    if variant.act == "read-touched" && buffer.load(0) != 0 {
        scene.fault(Class::Foreign, "fresh memory is not zero");
    }
    let before = pins::balance().ok();
    let parked = scene.park("write", &file, (0, LEN as u64), Phase::Received)?;
    let io = Io::write(&handle, &buffer, 0..LEN, 0);
    let flight = scene.start(variant.engine_or_pread(), io)?;
    scene.meet(parked, 1)?;
    if let Some((before, during)) = before.zip(pins::balance().ok()) {
        scene.note(format!("pins while the write is in flight: {:+}", during - before));
    }
    let mut legal = vec![Legal::Zero];
    if scene.race() {
        scene.event(Actor::Racer, "store");
        buffer.write(0, &file.content(2, 0, LEN));
        legal.push(file.generation(2));
    }
    scene.release(parked)?;
    let done = scene.finish(flight)?;
    scene.count("the write", done, LEN);
    scene.forget(&file)?;
    let reader = scene.open(&file, Open::Buffered)?;
    let bytes = scene.read(&reader, 0, LEN)?.map_err(anyhow::Error::from)?;
    scene.judge("the file", &bytes, 0, &legal);
    let fresh = Buffer::new(Memory::Zero, LEN)?;
    if fresh.bytes(0, LEN).iter().any(|&byte| byte != 0) {
        scene.fault(Class::Foreign, "the zero page is not zero any more");
    }
    Ok(())
}
