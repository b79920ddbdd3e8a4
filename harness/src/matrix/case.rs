//! MX: every meaningful combination of memory, I/O, phase and racing action; see [`crate::matrix`].

use super::{Cell, cells, play};
use crate::cases::case::{Case, Reach};
use crate::cases::expect::{BLOCK_UNPINNED, Expected, FUSE_UNPINNED, Must, Seen};
use crate::cases::variant::Variant;
use crate::fixture::Fixture;
use crate::kit::verdict::{Class, Stop};

/// MX.
pub const CASE: Case = Case {
    id: "MX",
    name: "matrix",
    claim: "whatever races with an I/O in flight, memory and file hold one of the contents that they may hold",
    groups: &["matrix"],
    reach: Reach::Gated,
    variants: || cells().iter().map(variant).collect(),
    run,
    expected: &[
        Expected {
            on: "inflight",
            variant: TRUNCATED,
            seen: &[Seen::Words(Class::Short, "fstat said 0 bytes, the file has *")],
            must: Must::Series(&[(6, 18)]),
            reference: "harness/findings/truncate-async-write.md",
            ..Expected::ALWAYS
        },
        Expected {
            on: "inflight",
            variant: "grow/read.*.direct/self-map/*",
            seen: &[Seen::Words(
                Class::Lost,
                "the memory: * are poison (never written); legal: *|the mapped file: * are poison (never written); legal: *",
            )],
            must: Must::Series(&[(6, 18)]),
            reference: "harness/findings/grow-under-direct-read.md",
            ..Expected::ALWAYS
        },
        Expected {
            variant: FORKED,
            seen: &[
                Seen::Words(Class::Lost, "the memory: * are poison (never written); legal: *"),
                Seen::Words(Class::Leak, "child: data arrived in memory that was copied at fork"),
            ],
            ..FUSE_UNPINNED
        },
        Expected {
            variant: FORKED,
            seen: &[
                Seen::Words(Class::Lost, "the memory: * are poison (never written); legal: *"),
                Seen::Words(Class::Leak, "child: data arrived in memory that was copied at fork"),
            ],
            ..BLOCK_UNPINNED
        },
    ],
};

/// A truncate overtakes an asynchronous direct write that is not applied yet.
const TRUNCATED: &str = "cut/write.aio.direct/*/received|cut/write.aio.direct/*/prepared|cut/write.uring.direct/*/received|cut/write.uring.direct/*/prepared|cut/write.fixed.direct/*/received|cut/write.fixed.direct/*/prepared";

/// Private memory that only a reference holds, and a store after a fork: as FK1. Registered memory is pinned.
const FORKED: &str = "fork*/read.read*.direct/anon/*|fork*/read.read*.direct/thp/*|fork*/read.read*.direct/hugetlb/*|fork*/read.read*.direct/stack/*|fork*/read.aio.direct/anon/*|fork*/read.aio.direct/thp/*|fork*/read.aio.direct/hugetlb/*|fork*/read.aio.direct/stack/*|fork*/read.uring.direct/anon/*|fork*/read.uring.direct/thp/*|fork*/read.uring.direct/hugetlb/*|fork*/read.uring.direct/stack/*|fork*/read.hipri.direct/anon/*|fork*/read.hipri.direct/thp/*|fork*/read.hipri.direct/hugetlb/*|fork*/read.hipri.direct/stack/*";

fn variant(cell: &'static Cell) -> Variant {
    let variant = Variant::new(cell.action.name())
        .named(cell.name())
        .plays(move |fixture, _| play::play(fixture, cell));
    if cell.ruins_mount() { variant.fresh() } else { variant }
}

/// Every variant knows its combination.
fn run(_: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    Err(Stop::Broken(format!("{variant:?} has no combination")).into())
}
