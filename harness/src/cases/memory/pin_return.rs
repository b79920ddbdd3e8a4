//! PN2: the pages of an I/O are given back when it is over, however it ended and whatever happened meanwhile.
//!
//! The kernel's own count of pins is the whole system's and noisy. Here every page is looked at: it must not be free
//! while the I/O is in flight, and nobody may hold it when the I/O is over and its memory is gone. A leak comes back in
//! every round; only that is a verdict. What a process has registered is counted for it alone (VmPin).

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, ROUNDS, Stamped};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Io, Way};
use crate::kit::event::Actor;
use crate::kit::fork::{Child, Task};
use crate::kit::frames::Frames;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::pins;
use crate::kit::stamp::CANARY;
use crate::kit::verdict::{Class, not_run};

pub const CASE: Case = Case {
    id: "PN2",
    name: "pin-return",
    claim: "every page that an I/O holds is kept until the I/O is over, and given back then",
    groups: &["quick", "memory"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Preadv, Engine::Aio, Engine::Uring, Engine::Fixed] {
        for act in ["read", "write"] {
            all.extend(["fork", "munmap"].map(|how| Variant::new(act).how(how).engine(engine)));
        }
    }
    all
}

const LEN: usize = 16384;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let before = pins::of_process("self");
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        let Some(frames) = round(fixture, variant, &file)? else {
            return Err(not_run("page frames are not readable here"));
        };
        all.push(frames);
    }
    fixture.judge_given_back(&all, bound() / ROUNDS as u32)?;
    let after = pins::of_process("self");
    if after > before {
        let text = format!("this process has {after:?} KiB pinned, {before:?} before");
        fixture.fault(Class::Pins, text);
    }
    Ok(())
}

/// One I/O, its data judged; gives the frames of its memory, which is gone.
fn round(
    fixture: &mut Fixture<'_>,
    variant: &Variant,
    file: &Stamped,
) -> anyhow::Result<Option<Frames>> {
    let handle = fixture.open(file, Open::Direct)?;
    let mut buffer = Buffer::new(Memory::Anon, LEN)?;
    let Some(frames) = Frames::of("self", buffer.ptr() as usize, LEN)? else { return Ok(None) };
    let engine = variant.engine_or_pread();
    if engine == Engine::Fixed {
        fixture.engines().pin(buffer.ptr(), LEN)?;
    }
    let way = if variant.act == "read" { Way::Read } else { Way::Write };
    if way == Way::Write {
        buffer.write(0, &file.content(2, 0, LEN));
    }
    let (op, io) = match way {
        Way::Read => ("read", Io::read(&handle, &buffer, 0..LEN, 0)),
        Way::Write => ("write", Io::write(&handle, &buffer, 0..LEN, 0)),
    };
    let parked = fixture.park(op, file, (0, 4096), Phase::Received)?;
    let flight = fixture.start(engine, io)?;
    fixture.meet(parked, 1)?;
    let mut child: Option<Child> = None;
    // A FUSE write was copied when it was parked: its pages are held for the answer alone.
    let mut is_elsewhere = false;
    if fixture.race() {
        if variant.how == "fork" {
            child = Some(fixture.fork(Task::Exit)?);
            buffer.store(0, 1);
        } else {
            fixture.event(Actor::Racer, "munmap");
            buffer.remap()?;
            buffer.fill(0, LEN, CANARY);
            is_elsewhere = true;
            fixture.judge_held(&frames)?;
        }
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the I/O", done, LEN);
    if engine == Engine::Fixed {
        fixture.engines().unregister()?;
    }
    if is_elsewhere && buffer.bytes(0, LEN).iter().any(|&byte| byte != CANARY) {
        fixture.fault(Class::Foreign, "data arrived in pages that were mapped there later");
    }
    if way == Way::Write {
        // What was stored meanwhile was stored when the server had the payload of its page.
        let bytes = fixture.read(&handle, 0, LEN)?.map_err(anyhow::Error::from)?;
        fixture.judge("the file", &bytes, 0, &[file.generation(2)]);
    }
    drop(buffer);
    child.map_or(Ok(()), |child| child.finish(bound()).map(drop))?;
    Ok(Some(frames))
}
