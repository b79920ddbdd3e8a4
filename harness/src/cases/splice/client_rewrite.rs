//! SP4: a program changes its buffer while a direct write from it is in flight, and again when it is over.
//!
//! What it changes during the write may or may not be written; what it changes afterwards must not be.
//! A server that splices requests into a pipe and a kernel that gives it the program's own pages break this
//! (CVE-2022-1011).

use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Fixed, Seen};
use crate::cases::variant::Variant;
use crate::fixture::raw_server::{Settings, Which};
use crate::fixture::{Fixture, Open};
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::kernel::Version;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::verdict::{Class, not_run};
use crate::target::Target;

pub const CASE: Case = Case {
    id: "SP4",
    name: "client-rewrite",
    claim: "a direct write stores what its buffer held while it was in flight, and nothing that came later",
    groups: &["quick", "splice", "write"],
    reach: Reach::Gated,
    variants,
    run,
    expected: &[Expected {
        on: "inflight",
        variant: "spliced-answered/*",
        seen: &[Seen::Words(Class::Stale, "the payload: * generation *")],
        until: Some(Version(5, 17, 0)),
        fixed_in: &[
            Fixed::From(Version(5, 10, 106)),
            Fixed::From(Version(5, 15, 29)),
            Fixed::From(Version(5, 16, 15)),
        ],
        reference: "fuse: fix pipe buffer lifetime for direct_io, 0c4bcfdecb1a (CVE-2022-1011)",
        ..Expected::ALWAYS
    }],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Aio, Engine::Uring] {
        for phase in [Phase::Received, Phase::Prepared, Phase::Applied] {
            all.push(Variant::new("rewrite").engine(engine).phase(phase));
        }
        all.push(Variant::new("spliced").engine(engine));
        all.push(Variant::new("spliced").how("answered").engine(engine));
    }
    all
}

const LEN: usize = 65536;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    if variant.act == "spliced" {
        return run_spliced(fixture, variant);
    }
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    buffer.write(0, &file.content(2, 0, LEN));
    // Behind a loop device the request is cut up: it is enough to hold its first block.
    let parked = fixture.park("write", &file, (0, 4096), variant.phase_or_received())?;
    let io = Io::write(&handle, &buffer, 0..LEN, 0);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    fixture.meet(parked, 1)?;
    let mut legal = vec![file.generation(2)];
    if fixture.race() {
        fixture.event(Actor::Racer, "rewrite in flight");
        buffer.write(0, &file.content(3, 0, LEN));
        legal.push(file.generation(3));
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the write", done, LEN);
    fixture.event(Actor::Racer, "rewrite afterwards");
    buffer.write(0, &file.content(4, 0, LEN));
    fixture.forget(&file)?;
    let reader = fixture.open(&file, Open::Buffered)?;
    let bytes = fixture.read(&reader, 0, LEN)?.map_err(anyhow::Error::from)?;
    if fixture.count("read", Ok(bytes.len()), LEN) {
        fixture.judge("the file", &bytes, 0, &legal);
    }
    Ok(())
}

/// The server has the payload in a pipe, and looks at it when the program has already changed its buffer: while the
/// write is in flight, or when it has returned.
fn run_spliced(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    if *fixture.mounted().target() != Target::Inflight {
        return Err(not_run("the splicing server is played beside Inflight"));
    }
    let settings = Settings { id: 0, len: LEN, direct_io: false, writeback: false };
    let (mut server, file) = fixture.raw_server(settings)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    buffer.write(0, &file.content(2, 0, LEN));
    let answered = variant.how == "answered";
    server.hold(Which::Write, answered)?;
    let io = Io::write(&handle, &buffer, 0..LEN, 0);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    server.meet()?;
    let mut legal = vec![file.generation(2)];
    let mut flight = Some(flight);
    if answered && let Some(flight) = flight.take() {
        let done = fixture.finish(flight)?;
        fixture.count("the write", done, LEN);
    }
    if fixture.race() {
        fixture.event(Actor::Racer, "rewrite");
        buffer.write(0, &file.content(3, 0, LEN));
        if !answered {
            legal.push(file.generation(3));
        }
    }
    let bytes = server.drain()?;
    if let Some(flight) = flight {
        let sent = server.answer(false)?;
        anyhow::ensure!(sent.is_ok(), "the answer was refused: {sent:?}");
        let done = fixture.finish(flight)?;
        fixture.count("the write", done, LEN);
    }
    if fixture.count("the payload", Ok(bytes.len()), LEN) {
        fixture.judge("the payload", &bytes, 0, &legal);
    }
    Ok(())
}
