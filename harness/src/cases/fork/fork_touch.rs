//! FK1: fork, and a store to the same page, while a direct read into it is parked.
//!
//! See [`crate::fixture::touch`] for what happens to the page.

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{BLOCK_UNPINNED, COPIED_AT_FORK, Expected, FUSE_UNPINNED};
use crate::cases::variant::Variant;
use crate::fixture::touch::{HALF, Touch, prove};
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::engine::{Engine, Io};
use crate::kit::kernel::Version;
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::verdict::not_run;

pub const CASE: Case = Case {
    id: "FK1",
    name: "fork-touch",
    claim: "data of a direct read that is in flight during fork and a store to its page reaches the parent and not the child",
    groups: &["quick", "fork", "first"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[
        Expected { variant: MUST_FAIL, seen: COPIED_AT_FORK, ..FUSE_UNPINNED },
        Expected {
            variant: MUST_FAIL,
            seen: COPIED_AT_FORK,
            reference: "block: Use page pinning, 6.5 (fs/direct-io.c: 1ccf164ec866)",
            ..BLOCK_UNPINNED
        },
        Expected {
            variant: HUGE_PAGE,
            seen: COPIED_AT_FORK,
            since: Version(5, 19, 0),
            reference: "fuse: Fix missing FOLL_PIN for direct-io, 738adade96b2; ok on 5.10.262",
            ..FUSE_UNPINNED
        },
        Expected {
            variant: HUGE_PAGE,
            seen: COPIED_AT_FORK,
            since: Version(5, 19, 0),
            reference: "block: Use page pinning, 6.5; ok on 5.10.262",
            ..BLOCK_UNPINNED
        },
    ],
};

/// Before 5.19 a store after the child's end took a huge page as it was, whoever else held it.
const HUGE_PAGE: &str = "child-exited/*/thp";

/// Private memory with something that makes the kernel copy or share it.
const MUST_FAIL: &str = "store*/*anon*|store/*thp|store/*hugetlb|no-store*|child-exited/*anon*";

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Preadv, Engine::Aio, Engine::Uring] {
        all.push(Variant::new("store").engine(engine).memory(Memory::Anon));
    }
    for memory in [Memory::Thp, Memory::Hugetlb, Memory::Shared, Memory::Memfd] {
        all.push(Variant::new("store").engine(Engine::Uring).memory(memory));
    }
    // A whole page: the store goes into what is read, and its byte is anybody's.
    all.push(Variant::new("store-whole").engine(Engine::Uring).memory(Memory::Anon));
    for act in ["no-store", "child-exited", "spawn"] {
        all.push(Variant::new(act).engine(Engine::Uring).memory(Memory::Anon));
    }
    // A huge page is split, or copied, when a child that shared it has gone.
    all.push(Variant::new("child-exited").engine(Engine::Uring).memory(Memory::Thp));
    // The page is held from the submission to the answer, however far the server is.
    for phase in Phase::KERNEL {
        for engine in [Engine::Pread, Engine::Uring] {
            let inside = Variant::new("store").engine(engine).memory(Memory::Anon).phase(phase);
            // Nothing that others left to be written is in front on a mount of its own.
            all.push(inside.fresh());
        }
    }
    for phase in [Phase::Prepared, Phase::Applied, Phase::Piped] {
        for engine in [Engine::Pread, Engine::Uring] {
            all.push(Variant::new("store").engine(engine).memory(Memory::Anon).phase(phase));
        }
    }
    for engine in [Engine::Pread, Engine::Uring] {
        let uncached = Variant::new("store").engine(engine).memory(Memory::Anon);
        all.push(uncached.mount("direct_io"));
        // Passed through, the read is the file's below, and so is the pin.
        let passed = Variant::new("store").how("passed").engine(engine);
        all.push(passed.memory(Memory::Anon));
    }
    all
}

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let len = if variant.act == "store-whole" { PAGE } else { HALF };
    if fixture.grain() > len {
        return Err(not_run("the target serves part of a page from its page cache"));
    }
    let file = fixture.file(4096)?;
    match variant.how {
        "passed" => {
            fixture.passed(&file, |fixture, above| race(fixture, variant, &file, above, len))
        }
        _ => race(fixture, variant, &file, &file, len),
    }
}

/// What is parked is the read of `below`; `file` is the same, or passed through to it.
fn race(
    fixture: &mut Fixture<'_>,
    variant: &Variant,
    below: &Stamped,
    file: &Stamped,
    len: usize,
) -> anyhow::Result<()> {
    let handle = fixture.open(file, Open::Direct)?;
    let buffer = Buffer::new(variant.memory_or_anon(), 4096)?;
    let phase = variant.phase_or_received();
    let parked = fixture.park("read", below, (0, len as u64), phase)?;
    let engine = variant.engine_or_pread();
    let flight = fixture.start(engine, Io::read(&handle, &buffer, 0..len, 0))?;
    fixture.meet(parked, 1)?;

    let touch = match fixture.race() {
        true => Touch::race(fixture, variant.act, &buffer)?,
        false => Touch::default(),
    };

    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the read", done, len);
    let is_shared = variant.memory_or_anon().is_shared();
    let held = touch.judge(fixture, &buffer, file, len, is_shared)?;
    if is_shared { Ok(()) } else { prove(fixture, held) }
}
