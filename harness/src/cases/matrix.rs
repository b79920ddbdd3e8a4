//! MX: every meaningful combination of memory, I/O, phase and racing action; see [`crate::matrix`].

use crate::case::{Case, Reach};
use crate::expect::{EVER, Expected};
use crate::matrix::{cells, play};
use crate::scene::Scene;
use crate::variant::Variant;
use crate::verdict::{Class, Stop};

pub const CASE: Case = Case {
    id: "MX",
    name: "matrix",
    claim: "whatever races with an I/O in flight, memory and file hold one of the contents that they may hold",
    groups: &["matrix"],
    reach: Reach::Gated,
    variants: || cells().iter().map(|&cell| Variant::cell(cell)).collect(),
    run,
    expected: &[Expected {
        on: "inflight",
        variant: TRUNCATED,
        classes: &[Class::Short],
        since: EVER,
        until: None,
        fixed_in: &[],
        reference: "harness/findings/truncate-async-write.md",
    }],
};

/// A truncate overtakes an asynchronous direct write that is not applied yet.
const TRUNCATED: &str = "cut/write.aio.direct/*/received|cut/write.aio.direct/*/prepared|cut/write.uring.direct/*/received|cut/write.uring.direct/*/prepared|cut/write.fixed.direct/*/received|cut/write.fixed.direct/*/prepared";

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    match &variant.cell {
        Some(cell) => play::play(scene, cell),
        None => Err(Stop::Broken("a variant without a combination".to_owned()).into()),
    }
}
