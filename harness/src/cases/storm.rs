//! ST1: everything at once on one file, on any mount. See [`crate::storm`].

use crate::case::{Case, Reach};
use crate::expect::{EVER, Expected};
use crate::kernel::Version;
use crate::scene::Scene;
use crate::storm::lane::Cast;
use crate::storm::weather;
use crate::variant::Variant;
use crate::verdict::Class;

pub const CASE: Case = Case {
    id: "ST1",
    name: "storm",
    claim: "whatever happens at once, a reader sees bytes that the file had since it began, and its memory gets all that it was told",
    groups: &["storm"],
    reach: Reach::Any,
    variants: || ["sync", "fork", "async", "all"].map(Variant::new).into(),
    run,
    expected: &[
        Expected {
            on: "btrfs",
            variant: "sync|all",
            classes: &[Class::Hang],
            since: Version(6, 18, 0),
            until: None,
            fixed_in: &[],
            reference: "findings/btrfs-direct-fault-fork.md",
        },
        Expected {
        on: "inflight",
        variant: "async|all",
        classes: &[Class::Stale, Class::Resurrected],
        since: EVER,
        until: Some(Version(7, 1, 0)),
        fixed_in: &[],
        reference: "fuse: invalidate page cache after async direct write, 4c4c472d25f5",
    },
    ],
};

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let cast = match variant.act {
        "sync" => Cast::SYNC,
        "fork" => Cast::FORK,
        "async" => Cast::ASYNC,
        _ => Cast::ALL,
    };
    weather::play(scene, cast)
}
