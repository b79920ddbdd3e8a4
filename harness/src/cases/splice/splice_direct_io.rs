//! SP1: splice of a file that the server serves without cache (FOPEN_DIRECT_IO), opened without O_DIRECT.
//!
//! read(2) of such a file asks the server each time. Since 6.5 splice(2) and sendfile(2) take the page cache
//! instead: what was spliced once is spliced for ever, whatever the server has by then. And where attributes say that the file is
//! empty, as those of many generated files do (SP1b), nothing is spliced at all.

use std::fs::File;
use std::os::fd::AsFd;

use anyhow::Context;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Seen};
use crate::cases::variant::Variant;
use crate::fixture::raw_server::Settings;
use crate::fixture::{Fixture, Open};
use crate::kit::event::Actor;
use crate::kit::kernel::Version;
use crate::kit::pipe::Pipe;
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "SP1",
    name: "splice-direct-io",
    claim: "splice of an uncached (FOPEN_DIRECT_IO) file returns what read returns: what the server has now",
    groups: &["quick", "splice"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[
        Expected {
            on: "inflight",
            variant: "splice*|sendfile*",
            option: "direct_io",
            seen: &[Seen::Words(Class::Stale, "second transfer: * generation 1; *")],
            since: Version(6, 5, 0),
            reference: REFERENCE,
            ..Expected::ALWAYS
        },
        Expected {
            on: "inflight|server",
            variant: "*-empty",
            seen: &[Seen::Words(Class::Short, "the transfer: returned 0, *")],
            since: Version(6, 5, 0),
            reference: REFERENCE,
            ..Expected::ALWAYS
        },
    ],
};

const LEN: usize = 8192;

const REFERENCE: &str =
    "fuse: splice of FOPEN_DIRECT_IO, lore 20260513231437.1806724-1-joannelkoong@gmail.com";

fn variants() -> Vec<Variant> {
    let mut all: Vec<_> =
        ["splice", "sendfile"].map(|act| Variant::new(act).mount("direct_io")).into();
    all.extend(["splice", "sendfile"].map(|act| Variant::new(act).how("empty")));
    all
}

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    if variant.how == "empty" {
        return run_empty(fixture, variant);
    }
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Buffered)?;
    let mut pipe = Pipe::new()?;
    pipe.fill_all(&handle, LEN).context("the first splice")?;
    let bytes = pipe.drain()?;
    fixture.judge("first splice", &bytes, 0, &[file.generation(1)]);
    let generation = if fixture.race() {
        fixture.event(Actor::Racer, "the server has new data");
        fixture.rewrite_below(&file, 1, 2)?;
        2
    } else {
        1
    };
    let read = fixture.read(&handle, 0, LEN)?.context("read")?;
    fixture.judge("read", &read, 0, &[file.generation(generation)]);
    anyhow::ensure!(fixture.faults.is_empty(), "read(2) does not see it: {:?}", fixture.faults);
    let bytes = take(&handle, variant.act)?;
    fixture.count("second transfer", Ok(bytes.len()), LEN);
    fixture.judge("second transfer", &bytes, 0, &[file.generation(generation)]);
    Ok(())
}

/// SP1b: the server has content, and its attributes say 0 bytes.
fn run_empty(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let settings = Settings { id: 0, len: LEN, direct_io: true, writeback: false };
    let (mut server, file) = fixture.raw_server(settings)?;
    if fixture.race() {
        fixture.event(Actor::Racer, "attributes say 0 bytes");
        server.say_size(0)?;
    }
    let handle = File::open(&file.path).context("open")?;
    let size = handle.metadata()?.len();
    let wanted = if fixture.race() { 0 } else { LEN as u64 };
    anyhow::ensure!(size == wanted, "fstat says {size} bytes, the server said {wanted}");
    let read = fixture.read(&handle, 0, LEN)?.context("read")?;
    anyhow::ensure!(read == file.content(1, 0, LEN), "read(2) does not bring it");
    let bytes = take(&handle, variant.act)?;
    if fixture.count("the transfer", Ok(bytes.len()), LEN) {
        fixture.judge("the transfer", &bytes, 0, &[file.generation(1)]);
    }
    Ok(())
}

/// What splice(2) or sendfile(2) brings of a file.
fn take(handle: &File, act: &str) -> anyhow::Result<Vec<u8>> {
    if act == "splice" {
        let mut pipe = Pipe::new()?;
        pipe.fill_all(handle, LEN).context("splice")?;
        return pipe.drain();
    }
    let target = tempfile::tempfile()?;
    let mut offset = 0;
    nix::sys::sendfile::sendfile64(target.as_fd(), handle.as_fd(), Some(&mut offset), LEN)
        .context("sendfile")?;
    crate::kit::sys::contents(&target)
}
