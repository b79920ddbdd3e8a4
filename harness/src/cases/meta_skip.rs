//! A case that must be skipped: shows that a skip is no pass.

use crate::case::{Case, Reach};
use crate::scene::Scene;
use crate::variant::Variant;
use crate::verdict::{no_proof, not_run};

pub const CASE: Case = Case {
    id: "META3",
    name: "meta-must-skip",
    claim: "the harness says NOTRUN and NOPROOF with the reason",
    groups: &["meta"],
    reach: Reach::Any,
    variants: || vec![Variant::new("notrun"), Variant::new("noproof")],
    run,
    expected: &[],
};

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    match variant.act {
        "notrun" => Err(not_run("this machine has no flux capacitor")),
        _ if scene.race() => Err(no_proof("the window never overlapped")),
        _ => Ok(()),
    }
}
