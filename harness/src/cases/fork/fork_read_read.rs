//! FK2: two direct reads into one page, with a fork between them.
//!
//! The first is parked in one part of the page; the process forks and the child ends; the second runs to its
//! end in another part of the same page. No CPU stores anything: it is the second read's own access for
//! writing that moves the parent to a copy, where only a reference holds the first.

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{BLOCK_UNPINNED, Expected, FUSE_UNPINNED, Seen};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Io};
use crate::kit::fork::Task;
use crate::kit::kernel::Version;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::verdict::{Class, not_run};

pub const CASE: Case = Case {
    id: "FK2",
    name: "fork-read-read",
    claim: "two direct reads into one page both arrive when the process forks between them",
    groups: &["quick", "fork", "first"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[
        Expected { variant: BASE_PAGES, seen: &[NEVER_CAME], ..FUSE_UNPINNED },
        Expected { on: "*", variant: BASE_PAGES, seen: &[NEVER_CAME], ..BLOCK_UNPINNED },
        Expected {
            variant: HUGE_PAGE,
            seen: &[NEVER_CAME],
            since: Version(5, 19, 0),
            reference: "fuse: Fix missing FOLL_PIN for direct-io, 738adade96b2; ok on 5.10.262",
            ..FUSE_UNPINNED
        },
        Expected {
            on: "*",
            variant: HUGE_PAGE,
            seen: &[NEVER_CAME],
            since: Version(5, 19, 0),
            reference: "block: Use page pinning, 6.5; ok on 5.10.262",
            ..BLOCK_UNPINNED
        },
    ],
};

const NEVER_CAME: Seen = Seen::Words(
    Class::Lost,
    "first part: * are poison (never written); legal: *|second part: * are poison (never written); legal: *",
);

const BASE_PAGES: &str = "*/pread|*/preadv|*/aio|*/uring";
/// Before 5.19 a store after the child's end took a huge page as it was, whoever else held it.
const HUGE_PAGE: &str = "*/thp";

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Preadv, Engine::Aio, Engine::Uring] {
        all.push(Variant::new("child-exited").engine(engine));
    }
    all.push(Variant::new("child-alive").engine(Engine::Uring));
    for memory in [Memory::Thp, Memory::Hugetlb] {
        all.push(Variant::new("child-exited").engine(Engine::Uring).memory(memory));
    }
    all
}

/// The two parts of the page: where in memory, and as much.
const FIRST: usize = 0;
const SECOND: usize = 2048;
/// Two segments of a sector each, for preadv: older kernels take no less.
const LEN: usize = 1024;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    if fixture.grain() > LEN {
        return Err(not_run("the target serves part of a page from its page cache"));
    }
    let file = fixture.file(8192)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(variant.memory_or_anon(), 4096)?;
    let engine = variant.engine_or_pread();
    let parked = fixture.park("read", &file, (0, LEN as u64), inflight_gate::Phase::Received)?;
    let first = fixture.start(engine, Io::read(&handle, &buffer, FIRST..FIRST + LEN, 0))?;
    fixture.meet(parked, 1)?;

    let mut child = None;
    if fixture.race() {
        let forked = fixture.fork(Task::Exit)?;
        match variant.act {
            "child-alive" => child = Some(forked),
            _ => drop(forked.finish(bound())?),
        }
    }
    // It lies in another page of the file, so the rule does not stop it.
    let done = fixture.transfer(engine, Io::read(&handle, &buffer, SECOND..SECOND + LEN, 4096))?;
    fixture.count("the second read", done, LEN);

    fixture.release(parked)?;
    let done = fixture.finish(first)?;
    fixture.count("the first read", done, LEN);
    let legal = [file.generation(1)];
    fixture.judge("first part", &buffer.bytes(FIRST, LEN), 0, &legal);
    fixture.judge("second part", &buffer.bytes(SECOND, LEN), 4096, &legal);
    child.map_or(Ok(()), |child| child.finish(bound()).map(drop))
}
