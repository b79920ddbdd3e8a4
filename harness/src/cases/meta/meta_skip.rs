//! A case that must be skipped: shows that a skip is no pass.

use std::time::Duration;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::Fixture;
use crate::kit::verdict::{no_proof, not_run};

pub const CASE: Case = Case {
    id: "META3",
    name: "meta-must-skip",
    claim: "the harness says NOTRUN, NOPROOF and SERIALISED with the reason",
    groups: &["meta"],
    reach: Reach::Any,
    variants: || ["notrun", "noproof", "serialised"].map(Variant::new).into(),
    run,
    expected: &[],
};

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    match variant.act {
        "notrun" => Err(not_run("this machine has no flux capacitor")),
        "serialised" => held_back(fixture),
        _ if fixture.race() => Err(no_proof("the window never overlapped")),
        _ => Ok(()),
    }
}

/// A racer that is not over before what it races with.
fn held_back(fixture: &mut Fixture<'_>) -> anyhow::Result<()> {
    if fixture.race() {
        let (release, held) = std::sync::mpsc::channel();
        let mut racer = fixture.aside("the racer", move || held.recv())?;
        if !racer.is_over(Duration::ZERO)? {
            fixture.serialised(&racer);
        }
        release.send(())?;
        racer.join()??;
    }
    Ok(())
}
