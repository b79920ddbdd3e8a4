//! A case that must fail: shows that harm is reported.

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::Fixture;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::verdict::{no_proof, not_run};

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

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(4096)?;
    let buffer = Buffer::new(Memory::Anon, 4096)?;
    if !fixture.race() {
        buffer.write(0, &file.content(1, 0, 4096));
    }
    fixture.judge("buffer", &buffer.bytes(0, 4096), 0, &[file.generation(1)]);
    match variant.act {
        "lost-then-notrun" if fixture.race() => Err(not_run("harm was seen before this")),
        "lost-then-noproof" if fixture.race() => Err(no_proof("harm was seen before this")),
        "lost-then-error" if fixture.race() => anyhow::bail!("harm was seen before this"),
        "lost-then-panic" if fixture.race() => panic!("harm was seen before this"),
        _ => Ok(()),
    }
}
