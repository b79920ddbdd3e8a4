//! A case that must fail: shows that harm is reported.

use crate::case::{Case, Reach};
use crate::memory::{Buffer, Memory};
use crate::scene::Scene;
use crate::variant::Variant;

pub const CASE: Case = Case {
    id: "META1",
    name: "meta-must-fail",
    claim: "the harness reports a buffer that nothing was read into as LOST",
    groups: &["meta"],
    reach: Reach::Any,
    variants: || vec![Variant::new("lost")],
    run,
    expected: &[],
};

fn run(scene: &mut Scene<'_>, _: &Variant) -> anyhow::Result<()> {
    let file = scene.file(4096)?;
    let buffer = Buffer::new(Memory::Anon, 4096)?;
    if !scene.race() {
        buffer.write(0, &file.content(1, 0, 4096));
    }
    scene.judge("buffer", &buffer.bytes(0, 4096), 0, &[file.generation(1)]);
    Ok(())
}
