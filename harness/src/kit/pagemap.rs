//! Which physical page is behind an address: `/proc/PID/pagemap`, the probe that tells a pin from a
//! reference (a pinned page is copied early at fork, so parent and child differ).
//!
//! Source: Documentation/admin-guide/mm/pagemap.rst. Without CAP_SYS_ADMIN frame numbers read as 0.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::Context;

use crate::kit::sys::{HUGE, PAGE};

const PRESENT: u64 = 1 << 63;
const SOFT_DIRTY: u64 = 1 << 55;
const FRAME: u64 = (1 << 55) - 1;

/// A process's page table, open.
#[derive(Debug)]
pub struct Pagemap(File);

impl Pagemap {
    /// Opens that of a process, or `self`.
    ///
    /// # Errors
    /// No such process, or not ours.
    pub fn of(process: &str) -> anyhow::Result<Pagemap> {
        let path = format!("/proc/{process}/pagemap");
        File::open(&path).map(Pagemap).context(path)
    }

    /// The entry of a page, as Documentation/admin-guide/mm/pagemap.rst lays it out.
    pub(crate) fn entry(&self, address: usize) -> anyhow::Result<u64> {
        let mut entry = [0; 8];
        self.0.read_exact_at(&mut entry, (address / PAGE * 8) as u64).context("read pagemap")?;
        Ok(u64::from_le_bytes(entry))
    }

    /// Whether the page was stored to since the bits were cleared; always `false` on kernels without them.
    ///
    /// # Errors
    /// The process is gone.
    pub fn soft_dirty(&self, address: usize) -> anyhow::Result<bool> {
        Ok(self.entry(address)? & SOFT_DIRTY != 0)
    }

    /// Frame number of the page at `address`; `None` when nothing is mapped there, or when we may not know.
    ///
    /// # Errors
    /// The process is gone.
    pub fn frame(&self, address: usize) -> anyhow::Result<Option<u64>> {
        let entry = self.entry(address)?;
        Ok((entry & PRESENT != 0 && entry & FRAME != 0).then_some(entry & FRAME))
    }
}

/// Whether a frame is the zero page: bit 24 (KPF_ZERO_PAGE) of `/proc/kpageflags`.
///
/// # Errors
/// Not root.
pub fn is_zero_page(frame: u64) -> anyhow::Result<bool> {
    let flags = File::open("/proc/kpageflags").context("/proc/kpageflags")?;
    let mut entry = [0; 8];
    flags.read_exact_at(&mut entry, frame * 8).context("read /proc/kpageflags")?;
    Ok(u64::from_le_bytes(entry) & (1 << 24) != 0)
}

/// Whether a huge page is mapped at this aligned address of our own: its frames are aligned and
/// in a row. `true` when we may not look.
///
/// # Errors
/// Our own pagemap cannot be read.
pub fn is_thp(address: usize) -> anyhow::Result<bool> {
    let map = Pagemap::of("self")?;
    let frames = (0..HUGE / PAGE).map(|page| map.frame(address + page * PAGE));
    let frames: Vec<_> = frames.collect::<Result<_, _>>()?;
    let Some(first) = frames[0] else { return Ok(true) };
    let row = frames.iter().zip(first..).all(|(frame, wanted)| *frame == Some(wanted));
    Ok(first % (HUGE / PAGE) as u64 == 0 && row)
}

/// What the page of a parent and the same page of its child say about how the I/O holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The child got its own copy at fork: the page was pinned.
    Pinned,
    /// Both map the same page: at most a reference is held.
    Shared,
    /// The probe cannot say (no privilege).
    Unknown,
}

/// Compares the page at `address` in this process and in a child.
///
/// # Errors
/// The child is gone.
pub fn compare(child: i32, address: usize) -> anyhow::Result<Held> {
    let ours = Pagemap::of("self")?.frame(address)?;
    let theirs = Pagemap::of(&child.to_string())?.frame(address)?;
    Ok(match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours == theirs => Held::Shared,
        (Some(_), Some(_)) => Held::Pinned,
        _ => Held::Unknown,
    })
}
