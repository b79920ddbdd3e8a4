//! SW1: the page goes out to swap, comes back, and is stored to, while a direct read into it is parked.
//!
//! A page that an I/O holds must not lose its place in the program's memory. Needs swap (zram will do).

use inflight_gate::Phase;
use nix::sys::mman::MmapAdvise;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Must, Seen};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::kernel::Version;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::verdict::{Class, not_run};

pub const CASE: Case = Case {
    id: "SW1",
    name: "pageout",
    claim: "data of a direct read arrives although its page was sent to swap, touched and stored to meanwhile",
    groups: &["memory"],
    reach: Reach::Gated,
    variants: || {
        [Engine::Pread, Engine::Aio, Engine::Uring]
            .map(|e| Variant::new("pageout").engine(e))
            .into()
    },
    run,
    expected: &[Expected {
        on: "inflight",
        seen: &[Seen::Words(Class::Lost, "buffer: * are poison (never written); legal: *")],
        until: Some(Version(6, 1, 0)),
        // Not with every engine each time.
        must: Must::Series(&[]),
        reference: "a page that FUSE only refers to goes to swap; seen on 5.10.262, not on 6.1.192",
        ..Expected::ALWAYS
    }],
};

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let swaps = std::fs::read_to_string("/proc/swaps")?;
    if swaps.lines().count() < 2 {
        return Err(not_run("this machine has no swap"));
    }
    let half = fixture.grain().max(2048);
    let file = fixture.file(8192)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, 8192)?;
    let parked = fixture.park("read", &file, (0, half as u64), Phase::Received)?;
    let io = Io::read(&handle, &buffer, 0..half, 0);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    fixture.meet(parked, 1)?;
    if fixture.race() {
        fixture.event(Actor::Racer, "MADV_PAGEOUT, load, store");
        buffer.advise(MmapAdvise::MADV_PAGEOUT)?;
        buffer.load(half);
        buffer.store(half + 100, 1);
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the read", done, half);
    fixture.judge("buffer", &buffer.bytes(0, half), 0, &[file.generation(1)]);
    Ok(())
}
