//! The kernel's count of pinned pages: `nr_foll_pin_acquired` less `nr_foll_pin_released`.
//!
//! The counters lag by CPU; writing `/proc/sys/vm/stat_refresh` first makes them exact on a quiet machine.
//! On a busy one other processes' pins show, so a single reading never makes a verdict.

use std::time::{Duration, Instant};

use anyhow::Context;

/// Pages pinned now, system-wide.
///
/// # Errors
/// Not root (stat_refresh), or a kernel without the counters (before 5.7).
pub fn balance() -> anyhow::Result<i64> {
    std::fs::read("/proc/sys/vm/stat_refresh").context("/proc/sys/vm/stat_refresh")?;
    let text = std::fs::read_to_string("/proc/vmstat").context("/proc/vmstat")?;
    let value = |name: &str| {
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        let number = line.and_then(|line| line.split(' ').nth(1)?.parse::<i64>().ok());
        number.with_context(|| format!("/proc/vmstat has no {name}"))
    };
    Ok(value("nr_foll_pin_acquired")? - value("nr_foll_pin_released")?)
}

/// Memory that this process has pinned for long (VmPin), in KiB: registered buffers. `None` where the kernel does not
/// say.
pub fn of_process() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Waits until no more than `before` pages are pinned; gives what is left over at the end of the bound.
///
/// # Errors
/// As [`balance`].
pub fn settle(before: i64, bound: Duration) -> anyhow::Result<i64> {
    let end = Instant::now() + bound;
    loop {
        let over = balance()? - before;
        if over <= 0 || Instant::now() >= end {
            return Ok(over.max(0));
        }
        std::thread::yield_now();
    }
}
