//! KL2: a process ends while its direct read is parked: killed, by exit, or by execve(2).
//!
//! It may have to wait for the answer (a synchronous read that the server has taken is not killable, and
//! exit waits for libaio's requests), but it ends when the answer comes. A ring's request outlives its
//! process. In all cases the pages belong to the read until it is over: nobody else gets them earlier, the
//! answer goes into nobody else's memory, and then they are free.

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::bounds::{bound, patience, rendezvous};
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::fork::Task;
use crate::kit::frames::Frames;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::stamp::CANARY;
use crate::kit::verdict::{Class, Stop, not_run};

pub const CASE: Case = Case {
    id: "KL2",
    name: "exit-inflight",
    claim: "a process that ends with a direct read in flight ends when the read does, its pages are kept until then and no longer, and nobody else's memory is written",
    groups: &["quick", "abort"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = vec![Variant::new("kill").engine(Engine::Pread)];
    for engine in [Engine::Aio, Engine::Uring, Engine::Fixed] {
        for act in ["kill", "exit", "exec"] {
            all.push(Variant::new(act).engine(engine));
        }
    }
    for phase in [Phase::Prepared, Phase::Applied] {
        all.push(Variant::new("kill").engine(Engine::Uring).phase(phase));
    }
    for phase in Phase::KERNEL {
        for engine in [Engine::Pread, Engine::Uring] {
            // Nothing that others left to be written is in front on a mount of its own.
            all.push(Variant::new("kill").engine(engine).phase(phase).fresh());
        }
    }
    all
}

const LEN: usize = 16384;
/// Memory that is taken while the read is in flight: it would get pages that were freed too early.
const NEIGHBOUR: usize = 32 << 20;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    let engine = variant.engine_or_pread();
    if engine == Engine::Fixed {
        // The child cannot say why it was refused.
        fixture.engines().pin(buffer.ptr(), LEN)?;
        fixture.engines().unregister()?;
    }
    // Behind a loop device the read may be cut up: it is enough to hold its first block.
    let phase = variant.phase_or_received();
    let held = if phase == Phase::Copying { LEN as u64 } else { 4096 };
    let parked = fixture.park("read", &file, (0, held), phase)?;
    let io = Io::read(&handle, &buffer, 0..LEN, 0);
    let child = fixture.fork(Task::Transfer { engine, io, exec: variant.act == "exec" })?;
    let seq = fixture.meet(parked, 1)?[0].id;
    let pid = child.pid().to_string();
    let frames = Frames::of(&pid, buffer.ptr() as usize, LEN)?;
    if fixture.race() {
        fixture.event(Actor::Racer, variant.act);
        match variant.act {
            "kill" => {
                child.kill();
                child.settle(rendezvous())?;
            }
            _ if child.tell(patience())? => {}
            _ => return Err(not_run("the target makes the submission wait for the read")),
        }
        fixture.note(format!("state of the process while the read is parked: {:?}", child.state()));
    }
    let neighbour = Buffer::new(Memory::Anon, NEIGHBOUR)?;
    neighbour.fill(0, NEIGHBOUR, CANARY);
    if let Some(lost) = frames.as_ref().map(Frames::lost).transpose()?
        && lost > 0
    {
        fixture
            .fault(Class::Pins, format!("{lost} pages were freed with the read still in flight"));
    }
    fixture.release(parked)?;
    fixture.wait_done(seq)?;
    if variant.act == "kill" && fixture.race() {
        child.buried(bound())?;
    } else if child.finish(bound())? != 0 {
        return Err(Stop::Broken("the child could not execute /bin/true".to_owned()).into());
    }
    if neighbour.bytes(0, NEIGHBOUR).iter().any(|&byte| byte != CANARY) {
        fixture.fault(Class::Foreign, "the read was written to another process's memory");
    }
    drop(buffer);
    if let Some(kept) = frames.map(|frames| frames.settle(bound())).transpose()?
        && kept > 0
    {
        fixture
            .fault(Class::Pins, format!("{kept} pages are still held {:?} after the end", bound()));
    }
    Ok(())
}
