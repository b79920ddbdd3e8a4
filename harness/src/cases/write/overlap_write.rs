//! OW1: a second direct write to the same pages, done while the first one is in flight.
//!
//! The second is over before the server has applied the first, so the first is the later one: what it wrote is what every
//! reader finds, in the page cache and behind it.

use std::os::unix::fs::FileExt;

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::memory::{Buffer, Memory, PAGE};

pub const CASE: Case = Case {
    id: "OW1",
    name: "overlap-write",
    claim: "of two direct writes to the same pages the one that was applied last is the one that stays",
    groups: &["quick", "write"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for phase in [Phase::Received, Phase::Prepared, Phase::Copying] {
        for engine in [Engine::Aio, Engine::Uring] {
            all.push(Variant::new("second").engine(engine).phase(phase));
        }
    }
    all
}

const LEN: usize = 8 * PAGE;
/// What the second one writes: pages that were copied when the first is stopped, and pages that were not.
const AT: usize = PAGE;
const PART: usize = 4 * PAGE;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let direct = fixture.open(&file, Open::Direct)?;
    let other = fixture.open(&file, Open::Direct)?;
    let reader = fixture.open(&file, Open::Buffered)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    buffer.write(0, &file.content(2, 0, LEN));
    let phase = variant.phase_or_received();
    let parked = fixture.park_with("write", &file, phase, |rule| {
        let rule = rule.range(0, LEN as u64).count(1);
        if phase == Phase::Copying { rule.page(2) } else { rule }
    })?;
    let flight =
        fixture.start(variant.engine_or_pread(), Io::write(&direct, &buffer, 0..LEN, 0))?;
    fixture.meet(parked, 1)?;
    let mut second = None;
    if fixture.race() {
        let content = file.content(3, AT as u64, PART);
        let mut aside =
            fixture.aside("a second write", move || other.write_all_at(&content, AT as u64))?;
        if !aside.settle()? {
            fixture.serialised(&aside);
        }
        second = Some(aside);
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the write", done, LEN);
    let is_later = fixture.held_back.is_some();
    if let Some(second) = second {
        second.join()??;
    }
    let (first, both) = (vec![file.generation(2)], vec![file.generation(2), file.generation(3)]);
    let middle = if is_later { &both } else { &first };
    let behind = fixture.read(&direct, 0, LEN)?.map_err(anyhow::Error::from)?;
    let cached = fixture.read(&reader, 0, LEN)?.map_err(anyhow::Error::from)?;
    for (what, bytes) in [("the file", &behind), ("the page cache", &cached)] {
        for (from, to, legal) in
            [(0, AT, &first), (AT, AT + PART, middle), (AT + PART, LEN, &first)]
        {
            fixture.judge(what, &bytes[from..to], from as u64, legal);
        }
    }
    Ok(())
}
