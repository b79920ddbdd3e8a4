//! Shows the kernel's own count of pinned pages before, with and after a pool, and with user
//! memory extracted from an iterator.
//!
//!     cargo run -p inflight-dio --example pins

use anyhow::Result;
use inflight_dio::iter::{Extraction, IoIter, RingPins};
use inflight_dio::{Pool, PoolConfig};

fn main() -> Result<()> {
    show("before")?;
    let pool = Pool::new(PoolConfig { slabs: 4, ..PoolConfig::default() })?;
    let report = pool.report();
    show(&format!(
        "with a pool of {} bytes ({:?}, {:?})",
        report.bytes, report.backing, report.pin
    ))?;
    report.reasons.iter().for_each(|why| println!("    {why}"));

    let pins = RingPins::new(8)?;
    let mut user = vec![0u8; 64 << 10];
    let mut iter = IoIter::ubuf(&mut user[..]);
    let extraction = iter.extract(usize::MAX, 8, &pins)?;
    show(&format!("with {} bytes of user memory, {}", extraction.len(), name(&extraction)))?;
    drop(extraction);
    let mut own = pool.take(64 << 10);
    let mut parts = IoIter::kvec([&mut own]);
    let extraction = parts.extract(usize::MAX, 8, &pins)?;
    show(&format!("with {} bytes of our own, {}", extraction.len(), name(&extraction)))?;
    drop(extraction);

    drop((own, pool));
    show("after")
}

fn name(extraction: &Extraction<'_>) -> &'static str {
    match extraction {
        Extraction::Pinned(_) => "pinned",
        Extraction::Borrowed(_) => "borrowed",
    }
}

/// Pages pinned with FOLL_PIN and released again since boot, and those held by this process.
fn show(when: &str) -> Result<()> {
    // The counters are gathered from the CPUs once a second, or at a read of this file by root.
    let _ = std::fs::read("/proc/sys/vm/stat_refresh");
    let vmstat = std::fs::read_to_string("/proc/vmstat")?;
    let count = |name: &str| {
        vmstat.lines().find_map(|l| l.strip_prefix(name)).unwrap_or(" ?").trim().to_owned()
    };
    let status = std::fs::read_to_string("/proc/self/status")?;
    let held = status.lines().find_map(|l| l.strip_prefix("VmPin:")).unwrap_or("?").trim();
    println!("{when}:");
    println!(
        "    nr_foll_pin_acquired {:>8}  nr_foll_pin_released {:>8}  VmPin {held}",
        count("nr_foll_pin_acquired "),
        count("nr_foll_pin_released ")
    );
    Ok(())
}
