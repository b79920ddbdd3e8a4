//! KL2: a process is killed while its direct read is parked.
//!
//! It may have to wait for the answer (a synchronous read that the server has taken is not killable), but
//! it ends when the answer comes, and the answer goes into no page that somebody else has by then.

use inflight::gate::Phase;

use crate::case::{Case, Reach};
use crate::engine::Io;
use crate::event::Actor;
use crate::fork::Task;
use crate::memory::{Buffer, Memory};
use crate::scene::{BOUND, Open, Scene};
use crate::variant::Variant;
use crate::verdict::Class;

pub const CASE: Case = Case {
    id: "KL2",
    name: "exit-inflight",
    claim: "a killed process with a direct read in flight ends when the read does, and nobody else's memory is written",
    groups: &["quick", "abort"],
    reach: Reach::Gated,
    variants: || ["sync", "aio"].map(Variant::new).into(),
    run,
    expected: &[],
};

const CANARY: u8 = 0xCA;
const LEN: usize = 16384;
/// Memory that is taken while the read is in flight: it would get pages that were freed too early.
const NEIGHBOUR: usize = 32 << 20;

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = scene.file(LEN as u64)?;
    let handle = scene.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    let parked = scene.park("read", &file, (0, LEN as u64), Phase::Received)?;
    let io = Io::read(&handle, &buffer, 0..LEN, 0);
    // Made before anything is parked: the child does the read itself.
    let child = scene.fork(Task::Read { io, queued: variant.act == "aio" })?;
    let seq = scene.meet(parked, 1)?[0].id;
    if scene.race() {
        scene.event(Actor::Racer, "SIGKILL");
        child.kill();
    }
    let neighbour = Buffer::new(Memory::Anon, NEIGHBOUR)?;
    neighbour.fill(0, NEIGHBOUR, CANARY);
    scene.release(parked)?;
    scene.wait_done(seq)?;
    if scene.race() {
        child.buried(BOUND)?;
    } else {
        child.finish(BOUND)?;
    }
    if neighbour.bytes(0, NEIGHBOUR).iter().any(|&byte| byte != CANARY) {
        scene.fault(Class::Foreign, "the read was written to another process's memory");
    }
    Ok(())
}
