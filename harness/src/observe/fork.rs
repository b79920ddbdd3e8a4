//! What fork(2) and write protection do to a page that the kernel holds, by page frame numbers.
//!
//! Since 5.9 a pinned page is copied for the child at fork, so parent and child have different frames; a page
//! that is only referenced is shared as ever, and the copy is made for whoever stores first.

use std::ops::Range;

use nix::sys::mman::{MmapAdvise, ProtFlags};

use super::Seen;
use crate::kit::bounds::bound;
use crate::kit::engine::Engines;
use crate::kit::fork::{Task, child};
use crate::kit::memory::{self, Buffer, HUGE, Memory, PAGE};
use crate::kit::pagemap::{Held, Pagemap, compare};
use crate::kit::pipe::Pipe;
use crate::kit::verdict::not_run;

fn unknown() -> anyhow::Error {
    not_run("page frames are not readable (no CAP_SYS_ADMIN)")
}

/// A buffer of a kind, registered.
fn registered(kind: Memory, engines: &mut Engines) -> anyhow::Result<Buffer> {
    let buffer = Buffer::new(kind, PAGE)?;
    let done = engines.register(buffer.ptr(), buffer.len())?;
    done.map_err(|errno| not_run(format!("io_uring refuses the buffer: {errno}")))?;
    Ok(buffer)
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

/// A page that io_uring has pinned.
///
/// # Errors
/// NOTRUN without io_uring, the kind of memory, or page frames.
pub fn of_registered(kind: Memory) -> anyhow::Result<Seen> {
    let mut engines = Engines::default();
    compared(&registered(kind, &mut engines)?)
}

/// A page that a pipe refers to after vmsplice(2).
///
/// # Errors
/// NOTRUN without page frames.
pub fn of_vmspliced() -> anyhow::Result<Seen> {
    let (buffer, pipe) = (Buffer::new(Memory::Anon, PAGE)?, Pipe::new()?);
    pipe.gift(buffer.ptr(), PAGE)?;
    compared(&buffer)
}

/// A page that nobody holds.
///
/// # Errors
/// NOTRUN without page frames.
pub fn of_plain() -> anyhow::Result<Seen> {
    compared(&Buffer::new(Memory::Anon, PAGE)?)
}

/// A pinned page that is write-protected, made writable and stored to, without any fork: `stays` since an
/// anonymous page knows that it is exclusive (5.19); before, the store moved it away from the pin.
///
/// # Errors
/// NOTRUN without io_uring or page frames.
pub fn protected() -> anyhow::Result<Seen> {
    let mut engines = Engines::default();
    let buffer = registered(Memory::Anon, &mut engines)?;
    let own = Pagemap::of("self")?;
    let frame = || own.frame(buffer.ptr() as usize)?.ok_or_else(unknown);
    let before = frame()?;
    buffer.protect(ProtFlags::PROT_READ)?;
    buffer.protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
    buffer.store(0, 1);
    let word = if frame()? == before { "stays" } else { "moves" };
    Ok(Seen::new(word, "frame before and after mprotect and a store"))
}

/// MADV_COLLAPSE of a range in which one page is pinned: it cannot move, so it must be refused.
///
/// # Errors
/// NOTRUN without io_uring, or before 6.1.
pub fn collapsed() -> anyhow::Result<Seen> {
    let buffer = Buffer::new(Memory::Zero, 2 * HUGE)?;
    // Base pages, for now.
    buffer.fill(0, buffer.len(), 1);
    buffer.advise(MmapAdvise::MADV_HUGEPAGE)?;
    let start = (buffer.ptr() as usize).next_multiple_of(HUGE);
    let mut engines = Engines::default();
    let pinned = (start - buffer.ptr() as usize) + 5 * PAGE;
    let done = engines.register(buffer.at(pinned), PAGE)?;
    done.map_err(|errno| not_run(format!("io_uring refuses the buffer: {errno}")))?;
    let held = memory::collapse(start, HUGE);
    engines.unregister()?;
    let free = memory::collapse(start, HUGE);
    if let Err(errno) = free {
        return Err(not_run(format!("MADV_COLLAPSE without a pin: {errno}")));
    }
    Ok(match held {
        Ok(()) => Seen::new("moves", "MADV_COLLAPSE went through although a page was pinned"),
        Err(errno) => Seen::new("stays", format!("MADV_COLLAPSE: {errno:?}, without the pin: ok")),
    })
}

/// Pages that are looked at for their zone.
const LOOKED_AT: usize = 1024;

/// A page in a movable zone that is pinned for long: it must be moved out first.
///
/// # Errors
/// NOTRUN without a movable zone (boot with `movablecore=`) or page frames.
pub fn out_of_movable() -> anyhow::Result<Seen> {
    let zones = std::fs::read_to_string("/proc/zoneinfo").unwrap_or_default();
    let zones = movable(&zones);
    if zones.is_empty() {
        return Err(not_run("no memory in ZONE_MOVABLE (boot with movablecore=)"));
    }
    let buffer = Buffer::new(Memory::Anon, LOOKED_AT * PAGE)?;
    let own = Pagemap::of("self")?;
    let frames = || -> anyhow::Result<Vec<u64>> {
        let frame = |page| own.frame(buffer.at(page * PAGE) as usize)?.ok_or_else(unknown);
        (0..LOOKED_AT).map(frame).collect()
    };
    let is_inside = |frame: &&u64| zones.iter().any(|zone| zone.contains(frame));
    let inside = |frames: &[u64]| frames.iter().filter(is_inside).count();
    let before = inside(&frames()?);
    if before == 0 {
        return Err(not_run("no page of the buffer came from ZONE_MOVABLE"));
    }
    let mut engines = Engines::default();
    let done = engines.register(buffer.ptr(), buffer.len())?;
    done.map_err(|errno| not_run(format!("io_uring refuses the buffer: {errno}")))?;
    let after = inside(&frames()?);
    let word = if after == 0 { "moved out" } else { "left there" };
    Ok(Seen::new(
        word,
        format!("{before} of {LOOKED_AT} pages in ZONE_MOVABLE before, {after} after"),
    ))
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
