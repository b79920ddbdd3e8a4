//! A request that nobody releases: shows that a verdict with the watchdog's help is none.

use anyhow::Context;
use inflight_gate::{Phase, Rule};

use crate::case::{Case, Reach};
use crate::engine::{Engine, Io};
use crate::memory::{Buffer, Memory};
use crate::scene::{Open, Scene};
use crate::variant::Variant;

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

fn run(scene: &mut Scene<'_>, _: &Variant) -> anyhow::Result<()> {
    let file = scene.file(4096)?;
    let handle = scene.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, 4096)?;
    if scene.race() {
        let stage = scene.stage();
        let path = file.path.strip_prefix(stage.base()?).context("a file of the mount")?;
        let path = format!("/{}", path.display());
        stage.gate()?.park(Rule::at(Phase::Received).op("read").path(path).ttl_ms(200))?;
    }
    let done = scene.transfer(Engine::Pread, Io::read(&handle, &buffer, 0..4096, 0))?;
    scene.count("the read", done, 4096);
    scene.judge("buffer", &buffer.bytes(0, 4096), 0, &[file.generation(1)]);
    Ok(())
}
