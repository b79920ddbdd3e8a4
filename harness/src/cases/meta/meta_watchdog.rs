//! A request that nobody releases: shows that a verdict with the watchdog's help is none.

use anyhow::Context;
use inflight_gate::{Phase, Rule};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::memory::{Buffer, Memory};

pub const CASE: Case = Case {
    id: "META5",
    name: "meta-watchdog",
    claim: "a request that the gate's watchdog released makes the verdict BROKEN",
    groups: &["meta"],
    reach: Reach::Fuse,
    variants: || vec![Variant::new("watchdog")],
    run,
    expected: &[],
};

fn run(fixture: &mut Fixture<'_>, _: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(4096)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, 4096)?;
    if fixture.race() {
        let mounted = fixture.mounted();
        let path = file.path.strip_prefix(mounted.base()?).context("a file of the mount")?;
        let path = format!("/{}", path.display());
        mounted.gate()?.park(Rule::at(Phase::Received).op("read").path(path).ttl_ms(200))?;
    }
    let done = fixture.transfer(Engine::Pread, Io::read(&handle, &buffer, 0..4096, 0))?;
    fixture.count("the read", done, 4096);
    fixture.judge("buffer", &buffer.bytes(0, 4096), 0, &[file.generation(1)]);
    Ok(())
}
