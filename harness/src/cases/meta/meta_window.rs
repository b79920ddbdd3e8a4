//! A payload that is replaced in a window of the kernel's: shows that the windows are where they are said to be, and that the
//! oracle of those who play there can fail.

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::memory::{Buffer, Memory};

pub const CASE: Case = Case {
    id: "META7",
    name: "meta-window",
    claim: "the harness reports a payload that was replaced before, or in the middle of, its copy, and none that was replaced afterwards",
    groups: &["meta"],
    reach: Reach::Fuse,
    variants: || {
        let phases = [Phase::Queued, Phase::Copying, Phase::Received];
        phases.map(|phase| Variant::new("replaced").phase(phase).fresh()).into()
    },
    run,
    expected: &[],
};

const LEN: usize = 65536;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    buffer.write(0, &file.content(2, 0, LEN));
    let phase = variant.phase_or_received();
    if phase == Phase::Queued {
        fixture.write_end_again(&file)?;
    }
    let parked = fixture.park("write", &file, (0, LEN as u64), phase)?;
    let flight = fixture.start(Engine::Pread, Io::write(&handle, &buffer, 0..LEN, 0))?;
    fixture.meet(parked, 1)?;
    if fixture.race() {
        buffer.write(0, &file.content(3, 0, LEN));
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the write", done, LEN);
    let bytes = fixture.read(&handle, 0, LEN)?.map_err(anyhow::Error::from)?;
    fixture.judge("the file", &bytes, 0, &[file.generation(2)]);
    Ok(())
}
