//! PN1: what a read holds in the server is given back, whatever became of the read and of the file.
//!
//! The server says what is held: block pins, bytes of pool buffers, requests without an answer, and blocks that
//! were freed and wait. The kernel says how many of the server's pages are pinned. All of it must be as before.

use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use anyhow::Context;
use inflight_gate::Phase;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::bounds::patience;
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::pins;
use crate::kit::verdict::{Class, not_run};
use crate::target::Target;

pub const CASE: Case = Case {
    id: "PN1",
    name: "server-pins",
    claim: "the server holds no block, buffer or page longer than the read that needed it, also when the read fails or its file is truncated",
    groups: &["quick", "server"],
    reach: Reach::Fuse,
    variants,
    run,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for phase in [Phase::Prepared, Phase::Applied, Phase::Piped] {
        for act in ["truncate", "fail", "cut"] {
            all.push(Variant::new(act).phase(phase));
        }
        all.push(Variant::new("truncate").how("buffered").phase(phase));
    }
    all
}

/// Large enough for the spliced reply path.
const LEN: usize = 256 << 10;
/// Not more than one request of a readahead.
const LEN_BUFFERED: usize = 64 << 10;
const CUT: u32 = 5000;

/// The control reads nothing, and nothing is held.
fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let action = variant.act;
    let (open, len) = match variant.how {
        "buffered" => (Open::Buffered, LEN_BUFFERED),
        _ => (Open::Direct, LEN),
    };
    let file = fixture.file(len as u64)?;
    let handle = fixture.open(&file, open)?;
    fixture.file(4096)?;
    let before = Holdings::of(fixture)?;
    if fixture.race() {
        let buffer = Buffer::new(Memory::Anon, len)?;
        let parked = fixture.park("read", &file, (0, len as u64), variant.phase_or_received())?;
        let flight = fixture.start(Engine::Pread, Io::read(&handle, &buffer, 0..len, 0))?;
        let seq = fixture.meet(parked, 1)?[0].id;
        let held = Holdings::of(fixture)?;
        anyhow::ensure!(held.pins == before.pins + 1, "{held:?}: the read holds no blocks");
        fixture.event(Actor::Racer, action);
        let mut change = None;
        match action {
            "fail" => drop(fixture.mounted().gate()?.fail(seq, libc::EIO)?),
            "cut" => drop(fixture.mounted().gate()?.short(seq, CUT)?),
            _ => {
                let other = fixture.open(&file, Open::Buffered)?;
                change = Some(fixture.change("setattr", &file, "ftruncate", move || {
                    nix::unistd::ftruncate(other, 0)
                })?);
                // With the pin in place the commit cannot free the blocks; the next one must.
                fixture.file(4096)?;
            }
        }
        fixture.release(parked)?;
        // What it returned is SP5's matter.
        let _ = fixture.finish(flight)?;
        change.map(|change| change.join()).transpose()?.transpose()?;
        // The server lets go a moment after it has answered.
        for read in fixture.requests("read", handle.metadata()?.ino())? {
            fixture.wait_done(read.seq)?;
        }
    }
    // A commit, so that what was freed is free.
    fixture.file(4096)?;
    let end = Instant::now() + patience();
    let mut after = Holdings::of(fixture)?;
    while !after.exceeds(&before).is_empty() && Instant::now() < end {
        after = Holdings::of(fixture)?;
    }
    fixture.note(format!("before {before:?}, after {after:?}"));
    for text in after.exceeds(&before) {
        fixture.fault(Class::Pins, text);
    }
    Ok(())
}

/// What the server holds.
#[derive(Debug)]
struct Holdings {
    pins: u64,
    buffers: u64,
    requests: u64,
    waiting: u64,
    pages_kb: u64,
}

impl Holdings {
    fn of(fixture: &mut Fixture<'_>) -> anyhow::Result<Holdings> {
        if matches!(fixture.mounted().target(), Target::Server(_)) {
            return Err(not_run("what a server holds only Inflight's own reports"));
        }
        let report = crate::target::server::report(fixture.mounted().base()?)?;
        let number = |at: &str| {
            report.pointer(at).and_then(|n| n.as_u64()).with_context(|| format!("no {at} in stat"))
        };
        let pid = fixture.mounted().gate()?.server_pid();
        let pinned = pins::of_process(&pid.to_string());
        Ok(Holdings {
            pins: number("/pins")?,
            buffers: number("/pool/in_use")?,
            requests: number("/in_flight")?,
            waiting: number("/space/waiting")?,
            pages_kb: pinned.context("no VmPin in the server's status")?,
        })
    }

    fn list(&self) -> [(&'static str, u64); 5] {
        [
            ("reads that hold blocks", self.pins),
            ("bytes of buffers", self.buffers),
            ("requests without an answer", self.requests),
            ("freed blocks that wait", self.waiting),
            ("KiB of pinned pages (VmPin)", self.pages_kb),
        ]
    }

    fn exceeds(&self, before: &Holdings) -> Vec<String> {
        let pairs = self.list().into_iter().zip(before.list());
        let over = pairs.filter(|((_, after), (_, before))| after > before);
        over.map(|((what, after), (_, before))| {
            format!("{what}: {before} before, {after} afterwards")
        })
        .collect()
    }
}
