//! Pages that are held, freed and pinned on purpose: shows that the judges of page frames can fail.

use inflight_gate::Phase;
use nix::sys::mman::MmapAdvise;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::frames::Frames;
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::pipe::Pipe;
use crate::kit::verdict::not_run;

pub const CASE: Case = Case {
    id: "META6",
    name: "meta-pages",
    claim: "the harness says PINS of pages that stay held, are free too early, or are pinned where none may be",
    groups: &["meta"],
    reach: Reach::Any,
    variants: || ["held", "freed", "pinned"].map(Variant::new).into(),
    run,
    expected: &[],
};

/// So many that others cannot have taken them all at once.
const LEN: usize = 1024 * PAGE;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    if variant.act == "pinned" {
        return pinned(fixture);
    }
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    buffer.advise(MmapAdvise::MADV_DONTFORK)?;
    let Some(frames) = Frames::of("self", buffer.ptr() as usize, LEN)? else {
        return Err(not_run("page frames are not readable here"));
    };
    let pipe = Pipe::new()?;
    if fixture.race() && variant.act == "held" {
        pipe.gift(buffer.ptr(), PAGE)?;
    }
    if !fixture.race() && variant.act == "freed" {
        return fixture.judge_held(&frames);
    }
    drop(buffer);
    match variant.act {
        "held" => fixture.judge_given_back(&[frames], std::time::Duration::from_millis(100)),
        _ => fixture.judge_held(&frames),
    }
}

/// A direct write from memory that has pages of its own: those are pinned while it is in flight (6.9 on FUSE).
fn pinned(fixture: &mut Fixture<'_>) -> anyhow::Result<()> {
    if !fixture.mounted().target().is_gated() {
        return Err(not_run("needs a gate"));
    }
    let is_written = fixture.race();
    fixture.judge_unpinned(|fixture, balance| {
        let file = fixture.file(PAGE as u64)?;
        let handle = fixture.open(&file, Open::Direct)?;
        let buffer = Buffer::new(if is_written { Memory::Anon } else { Memory::Zero }, PAGE)?;
        let parked = fixture.park("write", &file, (0, PAGE as u64), Phase::Received)?;
        let before = balance();
        let flight = fixture.start(Engine::Uring, Io::write(&handle, &buffer, 0..PAGE, 0))?;
        fixture.meet(parked, 1)?;
        let pinned = before.zip(balance()).map(|(before, during)| during - before);
        fixture.release(parked)?;
        let done = fixture.finish(flight)?;
        fixture.count("the write", done, PAGE);
        Ok(pinned)
    })
}
