//! ZP1: a direct write from memory that nobody ever stored to: the kernel's one zero page.
//!
//! The zero page is shared by everybody, so it is neither pinned nor counted (6.5). A store while the write is
//! in flight gives the program a page of its own; the file gets zeroes, for the write had the zero page before, and
//! that stays zero. What is pinned while the write is in flight is counted, in several rounds: none of it may be this
//! page. One call may name the same untouched page twice: the first kernel that did not count the zero page as a pin
//! broke there (UDF on a loop device, before 6.5 was released).

use std::fs::File;

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Aside, Fixture, Open};
use crate::kit::engine::{Done, Engine, Flight, Io};
use crate::kit::event::Actor;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::sys;
use crate::kit::verdict::Class;

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
    all.push(Variant::new("twice"));
    all
}

/// Bytes of the memory.
const LEN: usize = 4096;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    fixture.judge_unpinned(|fixture, balance| round(fixture, variant, balance))
}

/// One write; gives how many pages were pinned by the time at which it was in flight.
fn round(
    fixture: &mut Fixture<'_>,
    variant: &Variant,
    balance: &dyn Fn() -> Option<i64>,
) -> anyhow::Result<Option<i64>> {
    let times = if variant.act == "twice" { 2 } else { 1 };
    let file = fixture.file((times * LEN) as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Zero, LEN)?;
    if variant.act == "read-touched" && buffer.load(0) != 0 {
        fixture.fault(Class::Foreign, "fresh memory is not zero");
    }
    let parked = fixture.park("write", &file, (0, LEN as u64), Phase::Received)?;
    let before = balance();
    let flight = start(fixture, variant, &handle, &buffer)?;
    fixture.meet(parked, 1)?;
    let pinned = before.zip(balance()).map(|(before, during)| during - before);
    if fixture.race() {
        fixture.event(Actor::Racer, "store");
        buffer.write(0, &file.content(2, 0, LEN));
    }
    fixture.release(parked)?;
    let done = match flight {
        Started::Once(flight) => fixture.finish(flight)?,
        Started::Twice(call) => call.join()?,
    };
    fixture.count("the write", done, times * LEN);
    fixture.forget(&file)?;
    let reader = fixture.open(&file, Open::Buffered)?;
    let bytes = fixture.read(&reader, 0, times * LEN)?.map_err(anyhow::Error::from)?;
    // The write had the zero page before the store gave the program a page of its own.
    fixture.judge("the file", &bytes, 0, &[file.hole()]);
    let fresh = Buffer::new(Memory::Zero, LEN)?;
    if fresh.bytes(0, LEN).iter().any(|&byte| byte != 0) {
        fixture.fault(Class::Foreign, "the zero page is not zero any more");
    }
    Ok(pinned)
}

/// A write in flight.
enum Started {
    Once(Flight),
    /// pwritev(2) of the same memory twice.
    Twice(Aside<Done>),
}

fn start(
    fixture: &mut Fixture<'_>,
    variant: &Variant,
    handle: &File,
    buffer: &Buffer,
) -> anyhow::Result<Started> {
    if variant.act == "twice" {
        let (handle, memory) = (handle.try_clone()?, buffer.ptr() as usize);
        let call = move || sys::write_twice(&handle, memory as *const u8, LEN);
        return Ok(Started::Twice(fixture.aside("pwritev of one page twice", call)?));
    }
    let io = Io::write(handle, buffer, 0..LEN, 0);
    Ok(Started::Once(fixture.start(variant.engine_or_pread(), io)?))
}
