//! ST1: everything at once on one file, on any mount. See [`crate::stress`].

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Must, Seen};
use crate::cases::variant::Variant;
use crate::fixture::Fixture;
use crate::kit::kernel::Version;
use crate::kit::verdict::{Class, Stop};
use crate::stress::driver;
use crate::stress::lane::Workload;

/// ST1.
pub const CASE: Case = Case {
    id: "ST1",
    name: "stress",
    claim: "whatever happens at once, a reader sees bytes that the file had since it began, and its memory gets all that it was told",
    groups: &["stress"],
    reach: Reach::Any,
    variants,
    run,
    expected: &[
        Expected {
            on: "btrfs",
            variant: "sync|all",
            seen: &[Seen::Stack(&[
                "dup_mmap",
                "btrfs_direct_write",
                "btrfs_start_ordered_extent_nowriteback",
            ])],
            since: Version(6, 18, 0),
            must: Must::Series(&[]),
            reference: "findings/btrfs-direct-fault-fork.md",
            ..Expected::ALWAYS
        },
        Expected {
            on: "inflight",
            variant: "async|all",
            seen: &[Seen::Words(Class::Stale, CACHED), Seen::Words(Class::Resurrected, CACHED)],
            until: Some(Version(7, 1, 0)),
            must: Must::Series(&[]),
            reference: "fuse: invalidate page cache after async direct write, 4c4c472d25f5",
            ..Expected::ALWAYS
        },
        Expected {
            on: "inflight",
            variant: "sync|all",
            seen: &[Seen::Words(Class::Stale, "* generation *; legal: zero or *")],
            must: Must::Series(&[]),
            reference: "IV4, findings/punch-drops-store.md",
            ..Expected::ALWAYS
        },
    ],
};

/// What was read through the page cache.
const CACHED: &str = "buffered read: *|mmap load: *|splice: *";

fn variants() -> Vec<Variant> {
    let workloads = [
        ("sync", Workload::SYNC),
        ("fork", Workload::FORK),
        ("async", Workload::ASYNC),
        ("all", Workload::ALL),
    ];
    let variant = |(name, workload)| {
        Variant::new(name).plays(move |fixture, _| driver::play(fixture, workload))
    };
    workloads.map(variant).into()
}

/// Every variant knows its workload.
fn run(_: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    Err(Stop::Broken(format!("{variant:?} has no workload")).into())
}
