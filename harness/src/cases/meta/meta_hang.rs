//! A case that must hang: shows that a lost worker is noticed, and that the run goes on.

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::Fixture;

pub const CASE: Case = Case {
    id: "META2",
    name: "meta-must-hang",
    claim: "the harness ends a variant that never returns, or whose process dies, and goes on",
    groups: &["meta"],
    reach: Reach::Any,
    variants: || {
        vec![Variant::new("never-returns"), Variant::new("never-ends"), Variant::new("dies")]
    },
    run,
    expected: &[],
};

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    if !fixture.race() {
        return Ok(());
    }
    match variant.act {
        "never-returns" => loop {
            std::thread::park();
        },
        "never-ends" => fixture
            .aside("something that never ends", || {
                loop {
                    std::thread::park();
                }
            })?
            .join(),
        _ => std::process::abort(),
    }
}
