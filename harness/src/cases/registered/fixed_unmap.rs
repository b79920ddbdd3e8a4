//! RB2: the registered buffer goes away while a read into it is parked.
//!
//! The read holds the pages, not the addresses: whatever is mapped there meanwhile must not see the data, and
//! pages that were moved must.

use inflight_gate::Phase;
use nix::sys::mman::MmapAdvise;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::frames::Frames;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::stamp::CANARY;
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "RB2",
    name: "fixed-unmap",
    claim: "a read into a registered buffer writes to the pages that were registered, and to no address",
    groups: &["quick", "registered"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all =
        ["munmap", "dontneed", "mremap", "unregister", "close"].map(Variant::new).to_vec();
    for phase in Phase::KERNEL {
        all.extend(["munmap", "mremap"].map(|act| Variant::new(act).phase(phase).fresh()));
    }
    all
}

/// Some pages: one alone may be somebody else's memory again before it is looked at.
const LEN: usize = 65536;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let mut buffer = Buffer::new(Memory::Anon, LEN)?;
    fixture.engines().pin(buffer.ptr(), buffer.len())?;
    let frames = Frames::of("self", buffer.ptr() as usize, LEN)?;
    let phase = variant.phase_or_received();
    let held = if phase == Phase::Copying { LEN as u64 } else { 4096 };
    let parked = fixture.park("read", &file, (0, held), phase)?;
    let flight = fixture.start(Engine::Fixed, Io::read(&handle, &buffer, 0..LEN, 0))?;
    fixture.meet(parked, 1)?;

    let (mut moved, mut unregister) = (None, None);
    let mut holds_canary = false;
    let mut is_registered = true;
    if fixture.race() {
        fixture.event(Actor::Racer, variant.act);
        match variant.act {
            "munmap" => {
                buffer.remap()?;
                frames.as_ref().map_or(Ok(()), |frames| fixture.judge_held(frames))?;
            }
            "dontneed" => buffer.advise(MmapAdvise::MADV_DONTNEED)?,
            "mremap" => moved = Some(buffer.move_away()?),
            "unregister" => {
                let call = fixture.engines().unregister_elsewhere()?;
                // It may have to wait for the read.
                let mut aside = fixture.aside("unregister the buffer", call)?;
                if !aside.settle()? {
                    fixture.serialised(&aside);
                }
                unregister = Some(aside);
                is_registered = false;
            }
            _ => {
                fixture.engines().close_ring();
                is_registered = false;
                // Nobody asks for the data any more, and nobody has the memory: the request alone holds its pages.
                buffer.remap()?;
                frames.as_ref().map_or(Ok(()), |frames| fixture.judge_held(frames))?;
            }
        }
        if matches!(variant.act, "munmap" | "dontneed" | "mremap" | "close") {
            buffer.fill(0, LEN, CANARY);
            holds_canary = true;
        }
    }
    let seq = fixture.requests_open()?;
    fixture.release(parked)?;
    if fixture.race() && variant.act == "close" {
        // Nobody is left to be told: the server's log says when the request is over.
        for seq in seq {
            fixture.wait_done(seq)?;
        }
        judge_elsewhere(fixture, &buffer);
        let frames: Vec<_> = frames.into_iter().collect();
        return fixture.judge_given_back(&frames, bound());
    }
    let done = fixture.finish(flight)?;
    fixture.count("the read", done, LEN);
    if let Some(unregister) = unregister {
        unregister.join()??;
    }
    if is_registered {
        fixture.engines().unregister()?;
    }
    if holds_canary {
        judge_elsewhere(fixture, &buffer);
    }
    if let Some(moved) = moved {
        fixture.judge("the moved pages", &moved.bytes(0, LEN), 0, &[file.generation(1)]);
    } else if !holds_canary {
        fixture.judge("the buffer", &buffer.bytes(0, LEN), 0, &[file.generation(1)]);
    }
    Ok(())
}

/// What is mapped at the old address by now is somebody else's.
fn judge_elsewhere(fixture: &mut Fixture<'_>, buffer: &Buffer) {
    if buffer.bytes(0, LEN).iter().any(|&byte| byte != CANARY) {
        let text = "data arrived in pages that were mapped at the old address later";
        fixture.fault(Class::Foreign, text);
    }
}
