//! SP9: a reply is held, cut or failed on its way through the pipe while another file is read beside it.
//!
//! Buffers and pipes are used again and again. What one reply refers to must not be given to the next before it
//! was consumed, and what is left of one that was given up must not be found by the next.

use inflight_gate::Phase;
use nix::errno::Errno;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open, Stamped};
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::memory::{Buffer, Memory};

pub const CASE: Case = Case {
    id: "SP9",
    name: "reply-beside",
    claim: "replies share neither memory nor pipes: one that is held, cut or failed takes nothing from its neighbours and gives them nothing",
    groups: &["quick", "server"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for path in ["read=direct", "read=buffered"] {
        for act in ["hold", "cut", "fail"] {
            for phase in [Phase::Prepared, Phase::Applied, Phase::Piped] {
                all.push(Variant::new(act).phase(phase).mount(path));
            }
        }
    }
    all
}

/// Large enough for the spliced reply path.
const LEN: usize = 65536;
const CUT: usize = 5000;
/// More than there are pipes in one reply.
const TIMES: usize = 4;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let (file, other) = (fixture.file(LEN as u64)?, fixture.file(LEN as u64)?);
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    let parked = fixture.park("read", &file, (0, LEN as u64), variant.phase_or_received())?;
    let flight = fixture.start(Engine::Pread, Io::read(&handle, &buffer, 0..LEN, 0))?;
    let seq = fixture.meet(parked, 1)?[0].id;
    let mut wanted: &[Result<usize, Errno>] = &[Ok(LEN)];
    if fixture.race() {
        again(fixture, &other)?;
        fixture.event(Actor::Racer, variant.act);
        match variant.act {
            "cut" => {
                // The kernel reads the rest, or leaves it at that.
                wanted = &[Ok(CUT), Ok(LEN)];
                fixture.mounted().gate()?.short(seq, CUT as u32)?;
            }
            "fail" => {
                wanted = &[Err(Errno::EIO)];
                fixture.mounted().gate()?.fail(seq, libc::EIO)?;
            }
            _ => {}
        }
    }
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    match done {
        Ok(count) if wanted.contains(&done) => {
            fixture.judge("the held read", &buffer.bytes(0, count), 0, &[file.generation(1)]);
        }
        _ if wanted.contains(&done) => {}
        _ => drop(fixture.count("the held read", done, LEN)),
    }
    again(fixture, &other)?;
    again(fixture, &file)
}

/// Reads the whole file a few times.
fn again(fixture: &mut Fixture<'_>, file: &Stamped) -> anyhow::Result<()> {
    let handle = fixture.open(file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    for _ in 0..TIMES {
        let done = fixture.transfer(Engine::Pread, Io::read(&handle, &buffer, 0..LEN, 0))?;
        if fixture.count("a read beside", done, LEN) {
            fixture.judge("a read beside", &buffer.bytes(0, LEN), 0, &[file.generation(1)]);
        }
    }
    Ok(())
}
