//! NR1: FUSE_NOTIFY_RESEND while a direct read is parked, and both its copies are answered.
//!
//! The kernel sends the request again under another number. Whoever answers that one first ends the read, and from then on
//! its memory is the program's: the answer under the old number must find nothing to write to. In the middle of the
//! copy of its answer a request is not sent again.

use std::time::Duration;

use inflight_gate::{Notice, Notified, Phase};

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Parked, Stamped};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::frames::Frames;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::stamp::CANARY;
use crate::kit::verdict::{Class, Stop, no_proof, not_run};

pub const CASE: Case = Case {
    id: "NR1",
    name: "resend-read",
    claim: "a direct read that is sent again is answered once, and the answer to its first copy writes nothing to memory that is in other use",
    groups: &["quick", "abort", "notify"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for engine in [Engine::Pread, Engine::Uring] {
        for phase in [Phase::Received, Phase::Applied, Phase::Piped] {
            all.push(Variant::new("second-first").engine(engine).phase(phase));
        }
        all.push(Variant::new("first-first").engine(engine).phase(Phase::Piped));
        all.push(Variant::new("abort").engine(engine).phase(Phase::Piped).fresh());
        all.push(Variant::new("once").engine(engine).phase(Phase::Copying));
    }
    all
}

const LEN: usize = 65536;
/// How long a request may take to come again that must not.
const MOMENT: Duration = Duration::from_millis(50);

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    fixture.needs_notices()?;
    if fixture.has("transport=uring") {
        // fuse_resend() (fs/fuse/dev.c) looks through what was read from /dev/fuse.
        return Err(not_run("the kernel does not send again what io_uring has brought"));
    }
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let mut buffer = Buffer::new(Memory::Anon, LEN)?;
    let frames = Frames::of("self", buffer.ptr() as usize, LEN)?;
    let phase = variant.phase_or_received();
    let parked = fixture.park("read", &file, (0, LEN as u64), phase)?;
    let io = Io::read(&handle, &buffer, 0..LEN, 0);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    fixture.meet(parked, 1)?;
    if !fixture.race() || variant.act == "once" {
        if fixture.race() {
            resend(fixture)?;
            judge_once(fixture, parked)?;
        }
        fixture.release(parked)?;
        let done = fixture.finish(flight)?;
        fixture.count("the read", done, LEN);
        fixture.judge("buffer", &buffer.bytes(0, LEN), 0, &[file.generation(1)]);
        return Ok(());
    }
    resend(fixture)?;
    let copies = fixture.meet(parked, 2)?;
    let (first, second) = (copies[0].id, copies[1].id);
    if variant.act == "abort" {
        fixture.event(Actor::Racer, "abort");
        fixture.mounted().abort()?;
    } else if variant.act == "first-first" {
        answer(fixture, first)?;
        if buffer.bytes(0, LEN).iter().any(|&byte| byte != crate::kit::stamp::POISON) {
            fixture.fault(Class::Foreign, "an answer under the old number reached the memory");
        }
    }
    if variant.act != "abort" {
        answer(fixture, second)?;
    }
    let done = fixture.finish(flight)?;
    if variant.act == "abort" {
        if done.is_ok() {
            fixture.fault(Class::Errno, format!("the read returned {done:?}, must fail"));
        }
    } else if fixture.count("the read", done, LEN) {
        judge(fixture, &buffer, &file);
    }
    if variant.act == "first-first" {
        return Ok(());
    }
    // The read is over: its memory is somebody else's when the late answers come.
    buffer.remap()?;
    let frames: Vec<_> = frames.into_iter().collect();
    fixture.judge_given_back(&frames, bound())?;
    buffer.fill(0, LEN, CANARY);
    fixture.event(Actor::Test, "the memory is in other use");
    answer(fixture, first)?;
    if variant.act == "abort" {
        answer(fixture, second)?;
    }
    if buffer.bytes(0, LEN).iter().any(|&byte| byte != CANARY) {
        fixture.fault(Class::Foreign, "a late answer was written to memory in other use");
    }
    Ok(())
}

fn judge(fixture: &mut Fixture<'_>, buffer: &Buffer, file: &Stamped) {
    fixture.judge("buffer", &buffer.bytes(0, LEN), 0, &[file.generation(1)]);
}

/// Has the kernel send again what the server has.
fn resend(fixture: &mut Fixture<'_>) -> anyhow::Result<()> {
    match fixture.notify(Notice::Resend)? {
        Notified { is_over: true, errno: None } => Ok(()),
        Notified { errno: Some(libc::EINVAL), .. } => {
            Err(not_run("this kernel has no FUSE_NOTIFY_RESEND (6.9)"))
        }
        other => Err(Stop::Broken(format!("FUSE_NOTIFY_RESEND: {other:?}")).into()),
    }
}

/// A request whose answer is being copied is not sent again.
fn judge_once(fixture: &mut Fixture<'_>, parked: Parked) -> anyhow::Result<()> {
    let wait = fixture.is_parked_times(parked, 2, MOMENT)?;
    if wait {
        fixture.fault(Class::Errno, "a request whose answer was being copied was sent again");
    }
    Ok(())
}

/// Lets one copy go, and waits for its answer.
fn answer(fixture: &mut Fixture<'_>, seq: u64) -> anyhow::Result<()> {
    match fixture.mounted().gate()?.release(seq) {
        Ok(1) => {}
        other => return Err(no_proof(format!("the answer was not held until now: {other:?}"))),
    }
    // The server may end at once after an abort, and with it the gate: then its answer has been sent too.
    match fixture.wait_done(seq) {
        Err(error) if error.is::<Stop>() => Err(error),
        _ => Ok(()),
    }
}
