//! KL1: the connection is aborted while a direct read is parked, and the server answers afterwards.
//!
//! The system call fails at once. From then on its memory is the program's again: a late answer must find
//! nothing to write to, however the memory is used meanwhile.

use std::time::{Duration, Instant};

use inflight_gate::Phase;
use nix::errno::Errno;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::raw_server::{Settings, Which};
use crate::fixture::{Fixture, Open};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::frames::Frames;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::stamp::CANARY;
use crate::kit::verdict::{Class, no_proof};

pub const CASE: Case = Case {
    id: "KL1",
    name: "abort-read",
    claim: "after an abort a late answer writes nothing to memory that the failed read once had",
    groups: &["quick", "abort"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Aio, Engine::Uring] {
        all.push(Variant::new("fill").engine(engine).phase(Phase::Received).fresh());
        all.push(Variant::new("remap").engine(engine).phase(Phase::Received).fresh());
    }
    all.extend(["move", "move-beside"].map(Variant::new));
    for phase in [Phase::Prepared, Phase::Applied, Phase::Piped] {
        all.push(Variant::new("fill").engine(Engine::Uring).phase(phase).fresh());
    }
    // Nobody has read it, or its answer is in the middle of its copy: the kernel has the request itself.
    for phase in Phase::KERNEL {
        for engine in [Engine::Pread, Engine::Uring] {
            all.push(Variant::new("remap").engine(engine).phase(phase).fresh());
        }
    }
    // Between the fetch and the commit of a queue's entry.
    for phase in [Phase::Received, Phase::Applied] {
        let over_uring = Variant::new("remap").engine(Engine::Uring).phase(phase);
        all.push(over_uring.mount("transport=uring").fresh());
    }
    all
}

/// Large enough for the spliced reply path.
const LEN: usize = 256 << 10;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    match variant.act {
        "move" | "move-beside" if !fixture.race() => {
            return run_moved(fixture, Abort::Never).map(drop);
        }
        "move" => return run_moved(fixture, Abort::Before).map(drop),
        "move-beside" => return run_beside(fixture),
        _ => {}
    }
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let mut buffer = Buffer::new(Memory::Anon, LEN)?;
    let frames = Frames::of("self", buffer.ptr() as usize, LEN)?;
    let parked = fixture.park("read", &file, (0, LEN as u64), variant.phase_or_received())?;
    let io = Io::read(&handle, &buffer, 0..LEN, 0);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    let seq = fixture.meet(parked, 1)?[0].id;
    if !fixture.race() {
        fixture.release(parked)?;
        let done = fixture.finish(flight)?;
        fixture.count("the read", done, LEN);
        fixture.judge("buffer", &buffer.bytes(0, LEN), 0, &[file.generation(1)]);
        return Ok(());
    }
    fixture.event(Actor::Racer, "abort");
    fixture.mounted().abort()?;
    let done = fixture.finish(flight)?;
    if !matches!(done, Err(Errno::ECONNABORTED | Errno::ENOTCONN | Errno::EIO)) {
        let text = format!("the read returned {done:?}, must be ECONNABORTED or ENOTCONN");
        fixture.fault(Class::Errno, text);
    }
    if variant.act == "remap" {
        buffer.remap()?;
        // The read is over: nobody may hold its pages, though the server has not answered.
        let frames: Vec<_> = frames.into_iter().collect();
        fixture.judge_given_back(&frames, bound())?;
    }
    buffer.fill(0, LEN, CANARY);
    fixture.event(Actor::Test, "the memory is in other use");
    // The proof needs the answer to be still to come.
    match fixture.mounted().gate()?.release(seq) {
        Ok(1) => {}
        other => return Err(no_proof(format!("the answer was not held until now: {other:?}"))),
    }
    // The server may end at once, and with it the gate: then its answer has been sent too.
    match fixture.wait_done(seq) {
        Err(error) if error.is::<crate::kit::verdict::Stop>() => return Err(error),
        _ => {}
    }
    if buffer.bytes(0, LEN).iter().any(|&byte| byte != CANARY) {
        fixture.fault(Class::Foreign, "the late answer was written to memory in other use");
    }
    Ok(())
}

/// How often the abort and the answer are started together until each came first once, and how long that may take.
const TRIES: usize = 200;
const TIME: Duration = Duration::from_secs(20);
/// The latest start of an abort, in offers of the processor to others.
const LATEST: u32 = 1 << 16;

/// KL1m with the abort and the answer at the same time, until each of them was first once.
fn run_beside(fixture: &mut Fixture<'_>) -> anyhow::Result<()> {
    let (mut whole, mut cut, end) = (0, 0, Instant::now() + TIME);
    // How late the abort starts: later when it came first, earlier when it did not.
    let mut delay = 0;
    while whole == 0 || cut == 0 {
        if whole + cut == TRIES || Instant::now() >= end {
            let text = format!("{whole} whole reads, {cut} that failed or were cut: never both");
            return Err(no_proof(text));
        }
        if run_moved(fixture, Abort::Beside { delay })? {
            (whole, delay) = (whole + 1, delay / 2);
        } else {
            (cut, delay) = (cut + 1, (delay * 2 + 1).min(LATEST));
        }
        if !fixture.faults.is_empty() {
            break;
        }
    }
    fixture.note(format!("{whole} whole reads, {cut} that failed or were cut"));
    Ok(())
}

/// When the connection is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Abort {
    Never,
    /// Before the answer.
    Before,
    /// Beside the answer, when the processor was offered to others so often.
    Beside {
        delay: u32,
    },
}

/// KL1m: the answer is spliced and its pages are moved into the page cache (SPLICE_F_MOVE), after the abort or at the
/// same time. The reader fails or has its bytes, and the file whose pages were moved keeps its own.
/// Gives whether the read was whole.
fn run_moved(fixture: &mut Fixture<'_>, when: Abort) -> anyhow::Result<bool> {
    let settings = Settings { id: 0, len: LEN, direct_io: false, writeback: false };
    let (mut server, file) = fixture.raw_server(settings)?;
    let handle = fixture.open(&file, Open::Buffered)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    server.hold(Which::Read, false)?;
    let flight = fixture.start(Engine::Pread, Io::read(&handle, &buffer, 0..LEN, 0))?;
    server.meet()?;
    let mut beside = None;
    match when {
        Abort::Never => {}
        Abort::Before => {
            fixture.event(Actor::Racer, "abort");
            server.abort()?;
        }
        Abort::Beside { delay } => {
            let abort = server.aborter()?;
            let late = move || {
                (0..delay).for_each(|_| std::thread::yield_now());
                abort()
            };
            beside = Some(fixture.aside("abort", late)?);
        }
    }
    let sent = server.answer(true)?;
    fixture.event(Actor::Test, format!("the answer: {sent:?}"));
    let done = fixture.finish(flight)?;
    let was_aborted = matches!(done, Err(Errno::ECONNABORTED | Errno::ENOTCONN | Errno::EIO));
    if let Some(beside) = beside {
        anyhow::ensure!(beside.join()?, "cannot write the abort file of the connection");
    }
    match done {
        Err(_) if when != Abort::Never && was_aborted => {}
        // The rest of the file may be asked for by a second request, which the abort meets.
        Ok(count) if matches!(when, Abort::Beside { .. }) && count > 0 => {
            fixture.judge("the read", &buffer.bytes(0, count), 0, &[file.generation(1)]);
        }
        done => {
            if fixture.count("the read", done, LEN) {
                fixture.judge("the read", &buffer.bytes(0, LEN), 0, &[file.generation(1)]);
            }
        }
    }
    if when == Abort::Before && sent.is_ok() {
        fixture.fault(Class::Errno, "/dev/fuse took an answer after the abort");
    }
    let source = server.source()?;
    fixture.judge("the source of the answer", &source, 0, &[file.generation(1)]);
    Ok(done == Ok(LEN))
}
