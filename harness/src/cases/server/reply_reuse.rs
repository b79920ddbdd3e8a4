//! SP7: the memory that a reply was made of changes after the reply, or while it waits in a pipe.
//!
//! The server splices replies out of the image's page cache or out of its own pinned buffers. Once the
//! reply is in /dev/fuse the client's page cache is the client's: what happens to the source must not show.
//! While the reply waits in the pipe, old and new bytes are legal, and nothing else.

use std::os::unix::fs::MetadataExt;

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::mapping::Mapping;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::verdict::{no_proof, not_run};

pub const CASE: Case = Case {
    id: "SP7",
    name: "reply-reuse",
    claim: "a page that came in a spliced reply keeps its bytes when the reply's source changes",
    groups: &["quick", "server"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for path in ["read=buffered", "read=direct", "read=copy"] {
        all.push(Variant::new("after").mount(path));
        for phase in [Phase::Prepared, Phase::Applied, Phase::Piped] {
            all.push(Variant::new("during").phase(phase).mount(path));
        }
    }
    all
}

const LEN: usize = 65536;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    if fixture.has("direct_io") {
        return Err(not_run("what is read with FOPEN_DIRECT_IO is not kept in the page cache"));
    }
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Buffered)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    let mut legal = vec![file.generation(1)];
    let io = Io::read(&handle, &buffer, 0..LEN, 0);
    if variant.act == "during" {
        let phase = variant.phase_or_received();
        let parked = fixture.park("read", &file, (0, LEN as u64), phase)?;
        let flight = fixture.start(Engine::Pread, io)?;
        fixture.meet(parked, 1)?;
        if fixture.race() {
            fixture.event(Actor::Racer, "the source changes");
            fixture.rewrite_below(&file, 1, 2)?;
            legal.push(file.generation(2));
        }
        fixture.release(parked)?;
        let done = fixture.finish(flight)?;
        fixture.count("the read", done, LEN);
    } else {
        let done = fixture.transfer(Engine::Pread, io)?;
        fixture.count("the read", done, LEN);
    }
    let first = buffer.bytes(0, LEN);
    fixture.judge("the read", &first, 0, &legal);
    // Clean pages may be dropped at any time, and would then be read again, rightly with what is there now.
    let pages = Mapping::private(&handle, LEN)?;
    pages.lock()?;
    if fixture.race() {
        let now = if variant.act == "during" { 2 } else { 1 };
        fixture.event(Actor::Racer, "the source changes again");
        fixture.rewrite_below(&file, now, 3)?;
    }
    let ino = handle.metadata()?.ino();
    let asked = fixture.requests("read", ino)?.len();
    let again = fixture.read(&handle, 0, LEN)?.map_err(anyhow::Error::from)?;
    if fixture.requests("read", ino)?.len() > asked {
        return Err(no_proof("the pages were dropped from the page cache and read again"));
    }
    fixture.judge("the cached pages", &again, 0, &legal);
    drop(pages);
    Ok(())
}
