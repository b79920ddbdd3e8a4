//! UN1: a file is unlinked, and others take its blocks, while a direct read of it is parked.
//!
//! The file is open, so its bytes are still its own: the read must bring them, and never those of a file
//! that was made meanwhile.

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::memory::{Buffer, Memory};

pub const CASE: Case = Case {
    id: "UN1",
    name: "unlink-read",
    claim: "a direct read of a file that is unlinked meanwhile brings the file's own bytes",
    groups: &["quick", "truncate"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let phases = [Phase::Received, Phase::Prepared, Phase::Applied];
    phases.map(|phase| Variant::new("unlink").engine(Engine::Uring).phase(phase)).into()
}

const LEN: usize = 65536;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    // Behind a loop device the read may be cut up: it is enough to hold its first block.
    let parked = fixture.park("read", &file, (0, 4096), variant.phase_or_received())?;
    let flight = fixture.start(variant.engine_or_pread(), Io::read(&handle, &buffer, 0..LEN, 0))?;
    fixture.meet(parked, 1)?;
    if fixture.race() {
        fixture.event(Actor::Racer, "unlink, and four new files");
        std::fs::remove_file(&file.path)?;
        for _ in 0..4 {
            fixture.file(LEN as u64)?;
        }
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the read", done, LEN);
    fixture.judge("buffer", &buffer.bytes(0, LEN), 0, &[file.generation(1)]);
    Ok(())
}
