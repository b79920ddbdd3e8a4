//! SP5: a splice whose READ comes back short, or fails, or races with a truncate.
//!
//! The direct splice-read allocates pages for all that was asked for, reads, and must trim the pipe to what
//! was read. ITER_PIPE did this by reverting an iterator, and a truncate between the two was a famous bug
//! (syzbot a440341a59e3b7142895). Count, pipe, contents and file position must agree exactly.
//!
//! The kernel may also get fewer pages than the splice asks for, and then asks the server for less
//! ([`Pipe::fill`]). Nothing was cut short by us then: the variant is played again.

use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use inflight_gate::{Action, Outcome, Phase, Record};
use nix::errno::Errno;

use crate::cases::case::{Case, Reach};
use crate::cases::expect::{Expected, Seen};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::event::Actor;
use crate::kit::pipe::Pipe;
use crate::kit::sys;
use crate::kit::verdict::{Class, no_proof};

pub const CASE: Case = Case {
    id: "SP5",
    name: "splice-short",
    claim: "a splice whose read is cut short, fails or races with a truncate moves exactly what it says, and no byte more",
    groups: &["quick", "splice", "first"],
    reach: Reach::Fuse,
    variants,
    run: |fixture, variant| run(fixture, variant, 0),
    expected: &[Expected {
        on: "inflight",
        variant: "*",
        option: "read=pipe-backed",
        seen: &[
            Seen::Words(Class::Lost, "*"),
            Seen::Words(Class::Foreign, "*"),
            Seen::Words(Class::Stale, "*"),
            Seen::Words(Class::Short, "*"),
            Seen::Words(Class::Errno, "*"),
        ],
        reference: "the deliberately broken, pipe-backed read path of our own server",
        ..Expected::ALWAYS
    }],
};

const LEN: usize = 65536;
/// Where a reply, a file or a truncate ends: nothing, a byte, in a block, a byte into the second page.
/// Bytes after which a read is cut, by their names in variants.
const CUTS: [(&str, usize); 4] = [("0", 0), ("1", 1), ("100", 100), ("4097", 4097)];
const MOST: (&str, usize) = CUTS[3];

/// A splice whose read is cut, or fails ("error", after nothing).
fn cut(kind: &'static str, (name, cut): (&'static str, usize)) -> Variant {
    let how = if kind == "error" { "" } else { name };
    Variant::new(kind).how(how).plays(move |fixture, variant| run(fixture, variant, cut))
}

fn variants() -> Vec<Variant> {
    let mut all: Vec<_> = CUTS.map(|size| cut("short", size)).into();
    all.push(cut("error", CUTS[0]));
    all.extend(CUTS[1..].iter().map(|&size| cut("eof", size)));
    for size in CUTS {
        for phase in [Phase::Received, Phase::Applied] {
            all.push(cut("truncate", size).phase(phase));
        }
    }
    for path in ["read=direct", "read=buffered"] {
        let some = [cut("short", MOST), cut("eof", MOST), cut("error", CUTS[0])];
        all.extend(some.map(|variant| variant.mount(path)));
        all.push(cut("truncate", MOST).phase(Phase::Received).mount(path));
    }
    all.extend(CUTS.map(|size| cut("short", size).mount("direct_io")));
    all.push(cut("error", CUTS[0]).mount("direct_io"));
    all.push(cut("eof", MOST).mount("read=pipe-backed"));
    all.push(cut("truncate", MOST).phase(Phase::Received).mount("read=pipe-backed"));
    all
}

/// How often a splice that got fewer pages than it asked for is tried again.
const TRIES: usize = 16;

/// What became of a try.
#[derive(PartialEq, Eq)]
enum Play {
    Judged,
    /// The kernel asked for less than the splice did.
    Starved,
}

fn run(fixture: &mut Fixture<'_>, variant: &Variant, cut: usize) -> anyhow::Result<()> {
    for _ in 0..TRIES {
        if play(fixture, variant, cut)? == Play::Judged {
            return Ok(());
        }
    }
    Err(no_proof(format!("{TRIES} splices in a row got fewer pages than they asked for")))
}

/// The first READ from the beginning of a file.
fn first(fixture: &mut Fixture<'_>, ino: u64) -> anyhow::Result<Option<Record>> {
    Ok(fixture.requests("read", ino)?.into_iter().find(|read| read.offset == 0))
}

/// What it was answered with; that is written down a moment after the answer.
fn said(fixture: &mut Fixture<'_>, ino: u64) -> anyhow::Result<Option<Outcome>> {
    if let Some(read) = first(fixture, ino)? {
        fixture.wait_done(read.seq)?;
    }
    Ok(first(fixture, ino)?.and_then(|read| read.outcome))
}

/// Whether the first READ of a file asked for less than `len` bytes: its splice got too few pages.
fn starved(fixture: &mut Fixture<'_>, ino: u64, len: usize) -> anyhow::Result<bool> {
    let asked = first(fixture, ino)?.map(|read| read.len);
    let is_less = asked.is_some_and(|asked| asked < len as u64);
    if is_less {
        fixture.note(format!("the kernel asked for {asked:?} of {len} bytes; again"));
    }
    Ok(is_less)
}

fn play(fixture: &mut Fixture<'_>, variant: &Variant, cut: usize) -> anyhow::Result<Play> {
    let kind = variant.act;
    let len = if kind == "eof" && fixture.race() { cut } else { LEN };
    let file = fixture.file(len as u64)?;
    if kind == "truncate" && fixture.race() {
        return truncate(fixture, variant, &file, cut);
    }
    let mut handle = fixture.open(&file, Open::Direct)?;
    let action = match kind {
        "short" => Some(Action::Short(cut as u32)),
        "error" => Some(Action::Fail(libc::EIO)),
        _ => None,
    };
    if let Some(action) = action.filter(|_| fixture.race()) {
        fixture.park_with("read", &file, Phase::Received, |rule| rule.count(1).action(action))?;
    }
    // In cached mode the kernel reads the rest of a short direct read through the page cache
    // (generic_file_read_iter), so all of it is as legal as the short count.
    let wanted: &[Result<usize, Errno>] = match kind {
        _ if !fixture.race() => &[Ok(LEN)],
        "error" => &[Err(Errno::EIO)],
        "short" if !fixture.has("direct_io") => &[Ok(cut), Ok(LEN)],
        _ => &[Ok(cut)],
    };
    let mut pipe = Pipe::new()?;
    fixture.event(Actor::Test, format!("splice {LEN}"));
    let done = pipe.fill(&handle, None, LEN);
    fixture.event(Actor::Test, format!("returned {done:?}"));
    if starved(fixture, handle.metadata()?.ino(), len)? {
        return Ok(Play::Starved);
    }
    if !wanted.contains(&done) {
        let class = if done.is_err() { Class::Errno } else { Class::Short };
        fixture.fault(class, format!("splice returned {done:?}, must be one of {wanted:?}"));
    }
    check(fixture, &file, &mut pipe, done.unwrap_or(0), LEN)?;
    let position = handle.stream_position()? as usize;
    if position != done.unwrap_or(0) {
        fixture.fault(Class::Short, format!("{done:?} moved the position to {position}"));
    }
    // What follows must be what follows: the pipe and the position are as good as new.
    handle.seek(SeekFrom::Start(position as u64))?;
    if len > position {
        let left = len - position;
        let rest = sys::repeat(left, |moved| pipe.fill(&handle, None, left - moved));
        if rest != Ok(len - position) {
            fixture.fault(Class::Short, format!("the rest from {position}: {rest:?}"));
        }
        let bytes = pipe.drain()?;
        fixture.judge("the rest", &bytes, position as u64, &[file.generation(1)]);
    }
    // That the server said what it was told to.
    let said = said(fixture, handle.metadata()?.ino())?;
    let wanted = match kind {
        "short" => Some(Outcome::Bytes(cut as u64)),
        "error" => Some(Outcome::Errno(libc::EIO)),
        _ => said,
    };
    if fixture.race() && said != wanted {
        return Err(no_proof(format!("the READ was answered with {said:?}, not {wanted:?}")));
    }
    Ok(Play::Judged)
}

/// A pipe must hold as much as the splice said, and of the file.
fn check(
    fixture: &mut Fixture<'_>,
    file: &Stamped,
    pipe: &mut Pipe,
    said: usize,
    most: usize,
) -> anyhow::Result<()> {
    let held = pipe.held()?;
    if held != said || said > most {
        fixture.fault(Class::Short, format!("splice said {said}, the pipe holds {held} of {most}"));
    }
    let bytes = pipe.drain()?;
    fixture.judge("pipe", &bytes, 0, &[file.generation(1)]);
    Ok(())
}

/// The READ is parked, the file is truncated, the READ goes on.
fn truncate(
    fixture: &mut Fixture<'_>,
    variant: &Variant,
    file: &Stamped,
    cut: usize,
) -> anyhow::Result<Play> {
    let handle = fixture.open(file, Open::Direct)?;
    let ino = handle.metadata()?.ino();
    let phase = variant.phase_or_received();
    let parked = fixture.park("read", file, (0, LEN as u64), phase)?;
    let splice = fixture.aside("splice", move || -> anyhow::Result<_> {
        let pipe = Pipe::new()?;
        let done = pipe.fill(&handle, Some(0), LEN);
        Ok((pipe, done))
    })?;
    fixture.meet(parked, 1)?;
    let other = fixture.open(file, Open::Buffered)?;
    let cutter = fixture.change("setattr", file, "ftruncate", move || {
        nix::unistd::ftruncate(other.as_fd(), cut as i64)
    })?;
    cutter.join()??;
    fixture.release(parked)?;
    let (mut pipe, done) = splice.join()??;
    if starved(fixture, ino, LEN)? {
        return Ok(Play::Starved);
    }
    // Before the read was applied the truncate came first; after it, either order was seen.
    let legal: &[usize] = if phase == Phase::Received { &[cut] } else { &[cut, LEN] };
    if !done.is_ok_and(|count| legal.contains(&count)) {
        fixture.fault(Class::Short, format!("splice returned {done:?}, must be one of {legal:?}"));
    }
    check(fixture, file, &mut pipe, done.unwrap_or(0), LEN)?;
    Ok(Play::Judged)
}
