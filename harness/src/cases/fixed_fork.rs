//! RB1: fork and a store while a read into a registered buffer is parked.
//!
//! Registering pins the pages for long (FOLL_LONGTERM), so fork copies them for the child. Huge pages of
//! hugetlbfs got that copy only in 5.12.

use inflight_gate::Phase;

use crate::case::{Case, Reach};
use crate::engine::{Engine, Io};
use crate::event::Actor;
use crate::expect::{EVER, Expected};
use crate::fork::Task;
use crate::kernel::Version;
use crate::memory::{Buffer, Memory};
use crate::scene::{BOUND, Open, Scene};
use crate::stamp::POISON;
use crate::variant::Variant;
use crate::verdict::Class;

pub const CASE: Case = Case {
    id: "RB1",
    name: "fixed-fork",
    claim: "data of a read into a registered buffer reaches the parent and not a child that was forked meanwhile",
    groups: &["quick", "fork", "registered"],
    reach: Reach::Gated,
    variants: || [Memory::Anon, Memory::Thp, Memory::Hugetlb].map(variant).into(),
    run,
    expected: &[Expected {
        on: "*",
        variant: "*hugetlb",
        classes: &[Class::Lost, Class::Leak],
        since: EVER,
        until: Some(Version(5, 12, 0)),
        fixed_in: &[],
        reference: "hugetlb: early copy at fork, 4eae4efa2c29",
    }],
};

fn variant(memory: Memory) -> Variant {
    Variant::new("store").engine(Engine::Fixed).memory(memory)
}

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let half = scene.grain().max(2048);
    let file = scene.file(8192)?;
    let handle = scene.open(&file, Open::Direct)?;
    let buffer = Buffer::new(variant.memory_or_anon(), 8192)?;
    let registered = scene.engines().register(buffer.ptr(), buffer.len())?;
    registered.map_err(|errno| anyhow::anyhow!("register the buffer: {errno}"))?;
    let parked = scene.park("read", &file, (0, half as u64), Phase::Received)?;
    let flight = scene.start(Engine::Fixed, Io::read(&handle, &buffer, 0..half, 0))?;
    scene.meet(parked, 1)?;
    let mut child = None;
    if scene.race() {
        let look = Task::Differs { start: buffer.ptr(), len: half, byte: POISON };
        let forked = scene.fork(look)?;
        scene.probe(&forked, buffer.ptr() as usize)?;
        scene.event(Actor::Racer, "store");
        buffer.store(half, 1);
        child = Some(forked);
    }
    scene.release(parked)?;
    let done = scene.finish(flight)?;
    scene.engines().unregister()?;
    scene.count("the read", done, half);
    scene.judge("parent", &buffer.bytes(0, half), 0, &[file.generation(1)]);
    if let Some(child) = child
        && child.finish(BOUND)? == 1
    {
        scene.fault(Class::Leak, "child: data arrived in memory that was copied at fork");
    }
    Ok(())
}
