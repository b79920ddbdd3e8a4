//! TR3: a file grows while a read with a short (end of file) answer is in flight.
//!
//! The server read before the file grew, so its answer says where the end was. When it arrives the kernel must
//! know that its own size is newer, and must not shrink the file back.

use std::os::unix::fs::FileExt;

use anyhow::Context;
use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "TR3",
    name: "extend-short-read",
    claim: "a short read that was in flight while the file grew does not shrink it again",
    groups: &["quick", "truncate"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Aio, Engine::Uring] {
        all.push(Variant::new("buffered").engine(engine));
        all.push(Variant::new("direct").engine(engine));
    }
    all
}

/// The file ends inside its second page; it grows by a page further on.
const LEN: usize = 5000;
const GROW_AT: usize = 16384;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let how = if variant.act == "direct" { Open::Direct } else { Open::Buffered };
    let handle = fixture.open(&file, how)?;
    let buffer = Buffer::new(Memory::Anon, 8192)?;
    let parked = fixture.park("read", &file, (0, 8192), Phase::Applied)?;
    let io = Io::read(&handle, &buffer, 0..8192, 0);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    fixture.meet(parked, 1)?;
    let other = fixture.open(&file, Open::Buffered)?;
    if fixture.race() {
        fixture.event(Actor::Racer, "the file grows");
        let bytes = file.content(2, GROW_AT as u64, 4096);
        let grow = fixture.aside("write", move || other.write_all_at(&bytes, GROW_AT as u64))?;
        grow.join()?.context("grow the file")?;
    }
    fixture.release(parked)?;
    let legal = [file.generation(1), file.hole()];
    match fixture.finish(flight)? {
        Ok(count) if count == LEN || (fixture.race() && count == 8192) => {
            let bytes = buffer.bytes(0, count);
            fixture.judge("racing read", &bytes[..LEN], 0, &[file.generation(1)]);
            fixture.judge("racing read", &bytes[LEN..], LEN as u64, &legal[1..]);
        }
        other => drop(fixture.count("racing read", other, LEN)),
    }
    let wanted = if fixture.race() { GROW_AT + 4096 } else { LEN };
    let size = handle.metadata()?.len() as usize;
    if size != wanted {
        fixture.fault(Class::Short, format!("fstat says {size}, must be {wanted}"));
    }
    let reader = fixture.open(&file, Open::Buffered)?;
    let bytes = fixture.read(&reader, 0, wanted)?.map_err(anyhow::Error::from)?;
    if !fixture.count("read after", Ok(bytes.len()), wanted) {
        return Ok(());
    }
    fixture.judge("read after", &bytes[..LEN], 0, &[file.generation(1)]);
    if fixture.race() {
        fixture.judge("the gap", &bytes[LEN..GROW_AT], LEN as u64, &[file.hole()]);
        let grown = &bytes[GROW_AT..];
        fixture.judge("the new page", grown, GROW_AT as u64, &[file.generation(2)]);
    }
    Ok(())
}
