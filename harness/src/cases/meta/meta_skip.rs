//! A case that must be skipped: shows that a skip is no pass.

use crate::cases::case::{Case, Reach};
use crate::fixture::Fixture;
use crate::cases::variant::Variant;
use crate::kit::verdict::{no_proof, not_run};

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

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    match variant.act {
        "notrun" => Err(not_run("this machine has no flux capacitor")),
        _ if fixture.race() => Err(no_proof("the window never overlapped")),
        _ => Ok(()),
    }
}
