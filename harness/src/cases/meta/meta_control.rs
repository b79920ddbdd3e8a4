//! Cases whose setup is broken: a control that fails, an error, a panic.

use anyhow::bail;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::Fixture;
use crate::kit::verdict::{Class, not_run};

pub const CASE: Case = Case {
    id: "META4",
    name: "meta-must-break",
    claim: "the harness says BROKEN when the control fails, the setup fails or the case panics",
    groups: &["meta"],
    reach: Reach::Any,
    variants: || ["control", "control-notrun", "error", "panic"].map(Variant::new).into(),
    run,
    expected: &[],
};

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    match variant.act {
        "control" => fixture.fault(Class::Stale, "also without the race"),
        "control-notrun" => {
            fixture.fault(Class::Stale, "also without the race");
            return Err(not_run("harm was seen before this"));
        }
        "error" if fixture.race() => bail!("no such thing"),
        "panic" if fixture.race() => panic!("as told"),
        _ => {}
    }
    Ok(())
}
