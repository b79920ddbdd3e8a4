//! The kernel's count of pinned pages: `nr_foll_pin_acquired` less `nr_foll_pin_released`.
//!
//! The counters lag by CPU; writing `/proc/sys/vm/stat_refresh` first makes them exact on a quiet machine.
//! On a busy one other processes' pins show, so a single reading never makes a verdict. What a call pins is
//! counted as `acquired` only, which never falls: others can only add to it, so the least of several tries
//! is the call's own, if others pin little while nothing is called.

use crate::kit::pause::Pause;
use std::time::{Duration, Instant};

use anyhow::Context;

/// Tries of [`taken_by`], at least and, beside others that pin, at most.
const TRIES: u32 = 9;
const MOST_TRIES: u32 = 45;

/// Pages pinned now, system-wide.
///
/// # Errors
/// Not root (stat_refresh), or a kernel without the counters (before 5.7).
pub fn balance() -> anyhow::Result<i64> {
    std::fs::read("/proc/sys/vm/stat_refresh").context("/proc/sys/vm/stat_refresh")?;
    Ok(counter("nr_foll_pin_acquired")? - counter("nr_foll_pin_released")?)
}

/// Why a count says nothing of an I/O.
pub const OF_OTHERS: &str = "the kernel counts everybody's pins, and others pin pages all the time";

/// What a call pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// No more than so many pages, whoever else pins.
    AtMost(i64),
    /// So many pages; others pin less than half of them in the same time.
    Pages(i64),
    /// Others pin this many pages and more in the time of a call: nothing can be said of it.
    Unknown(i64),
}

/// Whether a call pins the `pages` pages that it moves: the least of several tries, each held against what others pin while
/// nothing is called, for as long. Without root the counter lags by up to a hundred or so a CPU, so ask about a thousand
/// pages and more.
///
/// # Errors
/// The call's own, or a kernel without the counters.
pub fn taken_by(
    pages: usize,
    mut call: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Taken> {
    let half = pages as i64 / 2;
    let (mut least, mut calm, mut others) = (i64::MAX, 0, i64::MAX);
    for round in 1..=MOST_TRIES {
        let (before, start) = (acquired()?, Instant::now());
        call()?;
        let after = acquired()?;
        std::thread::sleep(start.elapsed());
        let idle = acquired()? - after;
        least = least.min(after - before);
        others = others.min(idle);
        calm += u32::from(idle < half);
        if round >= TRIES && least < half {
            return Ok(Taken::AtMost(least));
        }
        if round >= TRIES && calm * 2 > round {
            return Ok(Taken::Pages(least));
        }
    }
    Ok(Taken::Unknown(others))
}

fn acquired() -> anyhow::Result<i64> {
    // Exact for root; others see it lag.
    let _ = std::fs::read("/proc/sys/vm/stat_refresh");
    counter("nr_foll_pin_acquired")
}

fn counter(name: &str) -> anyhow::Result<i64> {
    let text = std::fs::read_to_string("/proc/vmstat").context("/proc/vmstat")?;
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    let number = line.and_then(|line| line.split(' ').nth(1)?.parse().ok());
    number.with_context(|| format!("/proc/vmstat has no {name}"))
}

/// Memory that a process (its number, or `self`) has pinned for long (VmPin), in KiB: registered buffers. `None` where
/// the kernel does not say.
pub fn of_process(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Waits until no more than `before` pages are pinned; gives what is left over at the end of the bound.
///
/// # Errors
/// As [`balance`].
pub fn settle(before: i64, bound: Duration) -> anyhow::Result<i64> {
    let end = Instant::now() + bound;
    let mut pause = Pause::default();
    loop {
        let over = balance()? - before;
        if over <= 0 || Instant::now() >= end {
            return Ok(over.max(0));
        }
        pause.rest();
    }
}

/// Looks of [`is_unsteady`], and how long each one is.
const LOOKS: u32 = 3;
const LOOK: Duration = Duration::from_millis(10);

/// Whether pages are pinned all the time while we pin none: the count says nothing of us then.
///
/// # Errors
/// As [`balance`].
pub fn is_unsteady() -> anyhow::Result<bool> {
    for _ in 0..LOOKS {
        let before = acquired()?;
        std::thread::sleep(LOOK);
        if acquired()? == before {
            return Ok(false);
        }
    }
    Ok(true)
}
