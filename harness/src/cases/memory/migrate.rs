//! MV1: the kernel tries to move the page while a direct read into it is parked: compaction, collapse into a
//! huge page, another node, one shared page for all that have its contents (KSM).
//!
//! A page with an I/O on it must stay, or the data must follow it. (Migration was once blamed for lost
//! FUSE reads; a held page was never moved.)

use std::time::{Duration, Instant};

use inflight_gate::Phase;
use nix::errno::Errno;
use nix::sys::mman::MmapAdvise;

use crate::cases::case::{Case, Reach};
use crate::cases::variant::Variant;
use crate::fixture::{Fixture, Open};
use crate::kit::bounds::scaled;
use crate::kit::engine::{Engine, Io};
use crate::kit::event::Actor;
use crate::kit::memory::{Buffer, HUGE, Memory, PAGE};
use crate::kit::pagemap::Pagemap;
use crate::kit::pause::Pause;
use crate::kit::verdict::{no_proof, not_run};

pub const CASE: Case = Case {
    id: "MV1",
    name: "migrate",
    claim: "data of a direct read arrives although the kernel was told to move the page meanwhile",
    groups: &["memory"],
    reach: Reach::Gated,
    variants: || {
        let with =
            |act: &'static str| [Engine::Pread, Engine::Uring].map(|e| Variant::new(act).engine(e));
        ["compact", "collapse", "nodes", "merge"].into_iter().flat_map(with).collect()
    },
    run,
    expected: &[],
};

const LEN: usize = 4096;
/// KSM, switched on and in haste (Documentation/admin-guide/mm/ksm.rst): others may have much for it to look at.
const MERGING: [(&str, &str); 3] = [
    ("/sys/kernel/mm/ksm/pages_to_scan", "10000"),
    ("/sys/kernel/mm/ksm/sleep_millisecs", "1"),
    ("/sys/kernel/mm/ksm/run", "1"),
];
/// Longest wait until KSM has merged what nobody holds.
const MERGED: Duration = Duration::from_secs(20);
/// Space for one aligned huge page.
const SPACE: usize = 2 * HUGE;

fn run(fixture: &mut Fixture<'_>, variant: &Variant) -> anyhow::Result<()> {
    let file = fixture.file(LEN as u64)?;
    let handle = fixture.open(&file, Open::Direct)?;
    let buffer = Buffer::new(Memory::Anon, SPACE)?;
    let at = (buffer.ptr() as usize).next_multiple_of(HUGE) - buffer.ptr() as usize;
    let before = Pagemap::of("self")?.frame(buffer.at(at) as usize)?;
    let parked = fixture.park("read", &file, (0, LEN as u64), Phase::Received)?;
    let io = Io::read(&handle, &buffer, at..at + LEN, 0);
    let flight = fixture.start(variant.engine_or_pread(), io)?;
    fixture.meet(parked, 1)?;
    if fixture.race() {
        fixture.event(Actor::Racer, variant.act);
        disturb(fixture, variant, &buffer, at)?;
    }
    let after = Pagemap::of("self")?.frame(buffer.at(at) as usize)?;
    fixture.note(format!("the page moved: {}", before != after));
    fixture.release(parked)?;
    let done = fixture.finish(flight)?;
    fixture.count("the read", done, LEN);
    fixture.judge("buffer", &buffer.bytes(at, LEN), 0, &[file.generation(1)]);
    Ok(())
}

fn disturb(
    fixture: &mut Fixture<'_>,
    variant: &Variant,
    buffer: &Buffer,
    at: usize,
) -> anyhow::Result<()> {
    match variant.act {
        "compact" => compact(fixture, buffer, at),
        "collapse" => {
            buffer.advise(MmapAdvise::MADV_HUGEPAGE)?;
            let result = crate::kit::memory::collapse(buffer.at(at) as usize, HUGE);
            fixture.note(format!("MADV_COLLAPSE: {result:?}"));
            match result {
                Err(Errno::EINVAL) => Err(not_run("this kernel has no MADV_COLLAPSE")),
                _ => Ok(()),
            }
        }
        "merge" => merge(fixture, buffer, at),
        _ => {
            let nodes = std::fs::read_to_string("/sys/devices/system/node/online")?;
            if nodes.trim() == "0" {
                return Err(not_run("this machine has one memory node"));
            }
            let result = crate::kit::memory::move_to_node(buffer.at(at) as usize, 1);
            fixture.note(format!("move_pages: {result:?}"));
            match result.map(|status| Errno::from_raw(-status)) {
                Ok(Errno::ENOENT | Errno::EFAULT) => {
                    Err(no_proof("the page was not there to move"))
                }
                _ => Ok(()),
            }
        }
    }
}

/// Has the kernel compact all memory. Nothing says that it came by the page that is read into, unless it moved some of those
/// around it.
fn compact(fixture: &mut Fixture<'_>, buffer: &Buffer, at: usize) -> anyhow::Result<()> {
    let pages = Pagemap::of("self")?;
    let around = || -> anyhow::Result<Vec<Option<u64>>> {
        let others = (0..SPACE).step_by(PAGE).filter(|&page| page != at);
        others.map(|page| pages.frame(buffer.at(page) as usize)).collect()
    };
    let before = around()?;
    fixture.compact()?;
    let moved = before.iter().zip(around()?).filter(|(before, after)| *before != after).count();
    fixture.note(format!("compaction moved {moved} of the {} pages around it", before.len()));
    if moved == 0 {
        return Err(not_run("compaction moved none of the pages around: it may not have come by"));
    }
    Ok(())
}

/// Has KSM look at the page that is being read into, at one with the same contents behind it, and at a pair that
/// nobody holds. When that pair is one page, the others were looked at too.
fn merge(fixture: &mut Fixture<'_>, buffer: &Buffer, at: usize) -> anyhow::Result<()> {
    let pages = Pagemap::of("self")?;
    let frame = |page: usize| pages.frame(buffer.at(at + page * PAGE) as usize);
    buffer.fill(at + 2 * PAGE, 2 * PAGE, 0x5a);
    if frame(2)?.is_none() {
        return Err(not_run("frame numbers need root"));
    }
    let range = at..at + 4 * PAGE;
    buffer
        .advise_range(range.clone(), MmapAdvise::MADV_MERGEABLE)
        .map_err(|_| not_run("this kernel has no KSM"))?;
    for (setting, value) in MERGING {
        fixture.mounted().borrow(setting, value)?;
    }
    let end = Instant::now() + scaled(MERGED);
    let mut pause = Pause::default();
    while frame(2)? != frame(3)? {
        if Instant::now() >= end {
            return Err(not_run(format!("KSM merged nothing in {:?}", scaled(MERGED))));
        }
        pause.rest();
    }
    fixture.note(format!("KSM shares the page with its twin: {}", frame(0)? == frame(1)?));
    // Its own page from now on, whatever the read brings.
    buffer.advise_range(range, MmapAdvise::MADV_UNMERGEABLE)
}
