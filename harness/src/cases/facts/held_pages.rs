//! FA3: what becomes of a page that the kernel holds, by page frame numbers.
//!
//! Since 5.9 a pinned page is copied for the child at fork, so parent and child have different frames (RB1 shows what that is
//! for); a page that is only referenced, or not at all, is shared as ever. A page that is pinned for long cannot be moved, so
//! it is first moved out of a movable zone (since d1e153fea2a8, 5.13; before only out of CMA), and it is never the zero page.

use std::ops::Range;

use nix::sys::mman::MmapAdvise;

use super::{V5_13, by_itself, fact};
use crate::cases::case::{Case, Reach};
use crate::cases::expect::EVER;
use crate::cases::variant::Variant;
use crate::kit::bounds::bound;
use crate::kit::engine::Engines;
use crate::kit::fork::{Task, child};
use crate::kit::memory::{self, Buffer, HUGE, Memory, PAGE};
use crate::kit::pagemap::{self, Held, Pagemap, compare};
use crate::kit::pipe::Pipe;
use crate::kit::seen::Seen;
use crate::kit::verdict::not_run;

pub const CASE: Case = Case {
    id: "FA3",
    name: "held-pages",
    claim: "fork shares a page that is not pinned, and a page that is pinned for long is the program's own and stays where it is",
    groups: &["facts", "memory"],
    reach: Reach::Any,
    variants,
    run: by_itself,
    expected: &[],
};

fn variants() -> Vec<Variant> {
    let movable = &[("*", EVER, "left there"), ("*", V5_13, "moved out")];
    vec![
        fact("plain", |_| of_plain(), &[("*", EVER, "shared")]),
        fact("vmspliced", |_| of_vmspliced(), &[("*", EVER, "shared")]),
        fact("collapse", |_| collapsed(), &[("*", EVER, "stays")]),
        fact("movable", |_| out_of_movable(), movable),
        fact("zero-page", |_| zero_page(), &[("*", EVER, "pages of its own")]),
    ]
}

fn unknown() -> anyhow::Error {
    not_run("page frames are not readable (no CAP_SYS_ADMIN)")
}

/// Forks and compares the frame at the buffer's start: `copied for the child` or `shared`.
fn compared(buffer: &Buffer) -> anyhow::Result<Seen> {
    let forked = child(Task::Differs { start: buffer.ptr(), len: 0, byte: 0 })?;
    let held = compare(forked.pid(), buffer.ptr() as usize);
    forked.finish(bound())?;
    match held? {
        Held::Pinned => Ok(Seen::new("copied for the child", "frames differ after fork")),
        Held::Shared => Ok(Seen::new("shared", "parent and child map the same frame")),
        Held::Unknown => Err(unknown()),
    }
}

/// A page that a pipe refers to after vmsplice(2).
fn of_vmspliced() -> anyhow::Result<Seen> {
    let (buffer, pipe) = (Buffer::new(Memory::Anon, PAGE)?, Pipe::new()?);
    pipe.gift(buffer.ptr(), PAGE)?;
    compared(&buffer)
}

/// A page that nobody holds.
fn of_plain() -> anyhow::Result<Seen> {
    compared(&Buffer::new(Memory::Anon, PAGE)?)
}

/// MADV_COLLAPSE (6.1) of a range in which one page is pinned: it cannot move, so it must be refused.
fn collapsed() -> anyhow::Result<Seen> {
    let buffer = Buffer::new(Memory::Zero, 2 * HUGE)?;
    // Base pages, for now.
    buffer.fill(0, buffer.len(), 1);
    buffer.advise(MmapAdvise::MADV_HUGEPAGE)?;
    let start = (buffer.ptr() as usize).next_multiple_of(HUGE);
    let mut engines = Engines::default();
    let pinned = (start - buffer.ptr() as usize) + 5 * PAGE;
    engines.pin(buffer.at(pinned), PAGE)?;
    let held = memory::collapse(start, HUGE);
    engines.unregister()?;
    if let Err(errno) = memory::collapse(start, HUGE) {
        return Err(not_run(format!("MADV_COLLAPSE without a pin: {errno}")));
    }
    Ok(match held {
        Ok(()) => Seen::new("moves", "MADV_COLLAPSE went through although a page was pinned"),
        Err(errno) => Seen::new("stays", format!("MADV_COLLAPSE: {errno:?}, without the pin: ok")),
    })
}

/// Memory that was only read, when it is registered: a long pin for writing must not get the zero page.
fn zero_page() -> anyhow::Result<Seen> {
    let (buffer, mut engines) = (Buffer::new(Memory::Zero, PAGE)?, Engines::default());
    let own = Pagemap::of("self")?;
    let is_zero = || -> anyhow::Result<bool> {
        let frame = own.frame(buffer.ptr() as usize)?;
        pagemap::is_zero_page(frame.ok_or_else(unknown)?)
    };
    buffer.load(0);
    let before = is_zero()?;
    engines.pin(buffer.ptr(), buffer.len())?;
    let after = is_zero()?;
    let evidence = format!("zero page before: {before}, after: {after}");
    Ok(Seen::new(if after { "the zero page" } else { "pages of its own" }, evidence))
}

/// Pages that are looked at for their zone.
const LOOKED_AT: usize = 1024;

/// Pages in a movable zone (boot with `movablecore=`), when they are registered.
fn out_of_movable() -> anyhow::Result<Seen> {
    let zones = std::fs::read_to_string("/proc/zoneinfo").unwrap_or_default();
    let zones = movable(&zones);
    if zones.is_empty() {
        return Err(not_run("no memory in ZONE_MOVABLE (boot with movablecore=)"));
    }
    let buffer = Buffer::new(Memory::Anon, LOOKED_AT * PAGE)?;
    let own = Pagemap::of("self")?;
    let inside = || -> anyhow::Result<usize> {
        let frame = |page| own.frame(buffer.at(page * PAGE) as usize)?.ok_or_else(unknown);
        let frames = (0..LOOKED_AT).map(frame).collect::<anyhow::Result<Vec<u64>>>()?;
        let is_inside = |frame: &&u64| zones.iter().any(|zone| zone.contains(frame));
        Ok(frames.iter().filter(is_inside).count())
    };
    let before = inside()?;
    if before == 0 {
        return Err(not_run("no page of the buffer came from ZONE_MOVABLE"));
    }
    let mut engines = Engines::default();
    engines.pin(buffer.ptr(), buffer.len())?;
    let after = inside()?;
    let word = if after == 0 { "moved out" } else { "left there" };
    let evidence = format!("{before} of {LOOKED_AT} pages in ZONE_MOVABLE before, {after} after");
    Ok(Seen::new(word, evidence))
}

/// Frames of the movable zones that have any: each node has one.
fn movable(zones: &str) -> Vec<Range<u64>> {
    let frames = |zone: &str| {
        let mut words = zone.lines().next()?.split_whitespace();
        let named = words.nth(2) == Some("Movable");
        if !named || field(zone, "managed")? == 0 {
            return None;
        }
        let first = zone.lines().find_map(|line| line.trim().strip_prefix("start_pfn:"))?;
        let first: u64 = first.trim().parse().ok()?;
        Some(first..first + field(zone, "spanned")?)
    };
    zones.split("Node ").filter_map(frames).collect()
}

fn field(zone: &str, name: &str) -> Option<u64> {
    let mut words = zone.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.find_map(|words| match words[..] {
        [first, number] if first == name => number.parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn movable_zones_are_found_when_they_have_memory() {
        let zone = |managed: u64| {
            format!(
                "Node 0, zone   Normal\n  pages free 5\n        spanned  9\n        managed  7\n  start_pfn:           1\n\
                 Node 0, zone  Movable\n  pages free 5\n        spanned  100\n        managed  {managed}\n  start_pfn:           4096\n"
            )
        };
        let both = zone(90) + &zone(0) + &zone(1);
        assert_eq!(movable(&both), [4096..4196, 4096..4196]);
    }
}
