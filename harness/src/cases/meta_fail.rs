//! A case that must fail: shows that harm is reported.

use crate::case::{Case, Reach};
use crate::memory::{Buffer, Memory};
use crate::scene::Scene;
use crate::variant::Variant;
use crate::verdict::{no_proof, not_run};

pub const CASE: Case = Case {
    id: "META1",
    name: "meta-must-fail",
    claim: "the harness reports a buffer that nothing was read into as LOST, whatever comes after it",
    groups: &["meta"],
    reach: Reach::Any,
    variants: || {
        ["lost", "lost-then-notrun", "lost-then-noproof", "lost-then-error", "lost-then-panic"]
            .map(Variant::new)
            .into()
    },
    run,
    expected: &[],
};

fn run(scene: &mut Scene<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = scene.file(4096)?;
    let buffer = Buffer::new(Memory::Anon, 4096)?;
    if !scene.race() {
        buffer.write(0, &file.content(1, 0, 4096));
    }
    scene.judge("buffer", &buffer.bytes(0, 4096), 0, &[file.generation(1)]);
    match variant.act {
        "lost-then-notrun" if scene.race() => Err(not_run("harm was seen before this")),
        "lost-then-noproof" if scene.race() => Err(no_proof("harm was seen before this")),
        "lost-then-error" if scene.race() => anyhow::bail!("harm was seen before this"),
        "lost-then-panic" if scene.race() => panic!("harm was seen before this"),
        _ => Ok(()),
    }
}
