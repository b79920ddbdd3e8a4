//! A case that must hang: shows that a lost worker is noticed, and that the run goes on.

use crate::case::{Case, Reach};
use crate::scene::Scene;
use crate::variant::Variant;

pub const CASE: Case = Case {
    id: "META2",
    name: "meta-must-hang",
    claim: "the harness ends a variant that never returns, or whose process dies, and goes on",
    groups: &["meta"],
    reach: Reach::Any,
    variants: || vec![Variant::new("never-returns"), Variant::new("never-ends"), Variant::new("dies")],
    run,
    expected: &[],
};

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    if !scene.race() {
        return Ok(());
    }
    match variant.act {
        "never-returns" => loop {
            std::thread::park();
        },
        "never-ends" => scene
            .aside("something that never ends", || {
                loop {
                    std::thread::park();
                }
            })?
            .join(),
        _ => std::process::abort(),
    }
}
