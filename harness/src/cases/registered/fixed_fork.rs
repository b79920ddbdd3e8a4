//! RB1: fork and a store while a read into a registered buffer is parked.
//!
//! Registering pins the pages for long (FOLL_LONGTERM), so fork copies them for the child. Huge pages of
//! hugetlbfs got that copy only in 5.12.

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{COPIED_AT_FORK, Expected, Must, Seen};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::fork::Task;
use crate::kit::kernel::Version;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::stamp::POISON;
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "RB1",
    name: "fixed-fork",
    claim: "data of a read into a registered buffer reaches the parent and not a child that was forked meanwhile",
    groups: &["quick", "fork", "registered"],
    reach: Reach::Gated,
    variants: || [Memory::Anon, Memory::Thp, Memory::Hugetlb].map(variant).into(),
    run,
    expected: &[
        Expected {
            on: "*",
            variant: "*hugetlb",
            seen: COPIED_AT_FORK,
            until: Some(Version(5, 12, 0)),
            reference: "hugetlb: early copy at fork, 4eae4efa2c29",
            ..Expected::ALWAYS
        },
        Expected {
            on: "*",
            variant: "*hugetlb",
            seen: &[Seen::Words(Class::KernelLog, "WARNING: *follow_hugetlb_page*")],
            since: Version(6, 1, 0),
            until: Some(Version(6, 12, 0)),
            // Where the huge page lies in a movable zone.
            must: Must::Series(&[]),
            reference: "a long pin of a huge page in ZONE_MOVABLE; seen on 6.1.192, not on 6.12.117",
            ..Expected::ALWAYS
        },
    ],
};

fn variant(memory: Memory) -> Variant {
    Variant::new("store").engine(Engine::Fixed).memory(memory)
}

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let half = fixture.grain().max(2048);
    let file = fixture.file(8192)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(variant.memory_or_anon(), 8192)?;
    fixture.engines().pin(buffer.ptr(), buffer.len())?;
    let parked = fixture.park("read", &file, (0, half as u64), Phase::Received)?;
    let flight = fixture.start(Engine::Fixed, Io::read(&handle, &buffer, 0..half, 0))?;
    fixture.meet(parked, 1)?;
    let mut child = None;
    if fixture.race() {
        let look = Task::Differs { start: buffer.ptr(), len: half, byte: POISON };
        let forked = fixture.fork(look)?;
        fixture.probe(&forked, buffer.ptr() as usize)?;
        fixture.event(Actor::Racer, "store");
        buffer.store(half, 1);
        child = Some(forked);
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.engines().unregister()?;
    fixture.count("the read", done, half);
    fixture.judge("parent", &buffer.bytes(0, half), 0, &[file.generation(1)]);
    if let Some(child) = child
        && child.finish(bound())? == 1
    {
        fixture.fault(Class::Leak, "child: data arrived in memory that was copied at fork");
    }
    Ok(())
}
