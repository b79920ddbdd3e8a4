//! SG1: a signal comes for whoever waits for a parked READ, WRITE or FSYNC, and the kernel sends INTERRUPT.
//!
//! The kernel goes on waiting until the server has answered (request_wait_answer() in fs/fuse/dev.c): with what was asked
//! for, or with EINTR. It is the one answer, whichever it is; when the call has returned its memory is the program's.
//! In the middle of the answer's copy nobody is told, and the kernel waits all the same. A direct read or write is interrupted only where it is not in the background, which is so with FOPEN_DIRECT_IO.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use anyhow::Context;
use inflight_gate::{Outcome, Phase};
use nix::errno::Errno;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Aside, Fixture, Open, Parked, Stamped};
use crate::kit::engine::{Done, Io, once};
use crate::kit::event::Actor;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::stamp::{CANARY, POISON};
use crate::kit::verdict::Class;

pub const CASE: Case = Case {
    id: "SG1",
    name: "interrupt-wait",
    claim: "an interrupted call has one answer, that of the server, and nothing is written to its memory afterwards",
    groups: &["quick", "abort"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for how in ["answered", "eintr"] {
        all.push(Variant::new("read").how(how).phase(Phase::Received).mount("direct_io"));
        all.push(Variant::new("write").how(how).phase(Phase::Received).mount("direct_io"));
    }
    all.push(Variant::new("read").how("eintr").phase(Phase::Applied).mount("direct_io"));
    all.push(Variant::new("fsync").how("answered").phase(Phase::Received));
    for (how, phase) in [("eintr", Phase::Piped), ("answered", Phase::Copying)] {
        all.push(Variant::new("read").how(how).phase(phase).mount("direct_io"));
    }
    all
}

const LEN: usize = 256 << 10;
/// How long a call may take to return that must not.
const MOMENT: Duration = Duration::from_millis(10);

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    fixture.needs_interrupts()?;
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let ino = handle.metadata()?.ino();
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    let (op, phase) = (variant.act, variant.phase_or_received());
    let parked = match op {
        "fsync" => fixture.park_with(op, &file, phase, |rule| rule)?,
        _ => fixture.park(op, &file, (0, LEN as u64), phase)?,
    };
    let mut call = start(fixture, op, (&file, &handle), &buffer)?;
    let seq = fixture.meet(parked, 1)?[0].id;
    let ends_early = fixture.race() && variant.how == "eintr";
    if fixture.race() {
        let mut is_over = call.is_over(MOMENT)?;
        if !is_over {
            fixture.event(Actor::Racer, "SIGUSR1 for the thread that waits");
            call.interrupt()?;
            if phase != Phase::Copying {
                fixture.meet_interrupt(op, ino, seq)?;
            }
            is_over = call.is_over(MOMENT)?;
        }
        if is_over {
            fixture.fault(Class::Errno, "the call returned while its request was parked");
        }
    }
    let done = end(fixture, parked, seq, call, ends_early)?;
    let wanted = if op == "fsync" { 0 } else { LEN };
    if ends_early {
        if done != Err(Errno::EINTR) {
            fixture.fault(Class::Errno, format!("the server said EINTR, the call {done:?}"));
        }
    } else {
        fixture.count("the call", done, wanted);
    }
    judge_once(fixture, (op, ino, seq), ends_early)?;
    if op == "write" {
        judge_file(fixture, &file, ends_early)
    } else if op == "read" {
        judge_memory(fixture, &file, &handle, &buffer, ends_early)
    } else {
        Ok(())
    }
}

fn start(
    fixture: &mut Fixture<'_>,
    op: &str,
    (file, handle): (&Stamped, &File),
    buffer: &Buffer,
) -> anyhow::Result<Aside<Done>> {
    match op {
        "read" => fixture.aside("pread", once(Io::read(handle, buffer, 0..LEN, 0))),
        "write" => {
            buffer.write(0, &file.content(2, 0, LEN));
            fixture.aside("pwrite", once(Io::write(handle, buffer, 0..LEN, 0)))
        }
        _ => {
            handle.write_all_at(&file.content(1, 0, LEN), 0).context("write")?;
            let handle = handle.try_clone()?;
            fixture.aside("fsync", move || nix::unistd::fsync(handle).map(|()| 0))
        }
    }
}

/// Has it answered, with EINTR or with what was asked for, and waits for the call.
fn end(
    fixture: &mut Fixture<'_>,
    parked: Parked,
    seq: u64,
    call: Aside<Done>,
    ends_early: bool,
) -> anyhow::Result<Done> {
    if ends_early {
        fixture.event(Actor::Gate, "EINTR");
        fixture.mounted().gate()?.fail(seq, libc::EINTR)?;
    }
    fixture.release(parked)?;
    let done = call.join()?;
    fixture.event(Actor::Test, format!("returned {done:?}"));
    fixture.wait_done(seq)?;
    Ok(done)
}

/// The request came once and was answered once, as the call says.
fn judge_once(
    fixture: &mut Fixture<'_>,
    (op, ino, seq): (&str, u64, u64),
    ends_early: bool,
) -> anyhow::Result<()> {
    let outcome = fixture.record(op, ino, seq)?.outcome;
    let failed = outcome == Some(Outcome::Errno(libc::EINTR));
    let asked = fixture.requests(op, ino)?.iter().filter(|record| record.seq >= seq).count();
    if asked != 1 || failed != ends_early {
        let text = format!("{asked} requests for one call, the first one answered {outcome:?}");
        fixture.fault(Class::Errno, text);
    }
    Ok(())
}

fn judge_file(fixture: &mut Fixture<'_>, file: &Stamped, ends_early: bool) -> anyhow::Result<()> {
    let behind = fixture.open(file, Open::Direct)?;
    let bytes = fixture.read(&behind, 0, LEN)?.map_err(anyhow::Error::from)?;
    fixture.count("reading the file", Ok(bytes.len()), LEN);
    let generation = if ends_early { 1 } else { 2 };
    fixture.judge("the file", &bytes, 0, &[file.generation(generation)]);
    Ok(())
}

/// What came is there, or nothing did; and when another request has gone the same way, what the program put there since.
fn judge_memory(
    fixture: &mut Fixture<'_>,
    file: &Stamped,
    handle: &File,
    buffer: &Buffer,
    ends_early: bool,
) -> anyhow::Result<()> {
    let bytes = buffer.bytes(0, LEN);
    match ends_early {
        true if bytes.iter().any(|&byte| byte != POISON) => {
            fixture.fault(Class::Foreign, "data arrived with an answer of EINTR");
        }
        true => {}
        false => fixture.judge("buffer", &bytes, 0, &[file.generation(1)]),
    }
    buffer.fill(0, LEN, CANARY);
    fixture.event(Actor::Test, "the memory is in other use");
    let bytes = fixture.read(handle, 0, LEN)?.map_err(anyhow::Error::from)?;
    fixture.judge("another read", &bytes, 0, &[file.generation(1)]);
    if buffer.bytes(0, LEN).iter().any(|&byte| byte != CANARY) {
        fixture.fault(Class::Foreign, "an answer was written to memory in other use");
    }
    Ok(())
}
