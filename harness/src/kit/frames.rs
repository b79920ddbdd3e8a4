//! Page frames of memory that an I/O goes to: whether they are given back too early, or never.
//!
//! The count of pins ([`crate::kit::pins`]) is the whole system's, and others' pins show in it. A frame is one
//! page: while an I/O goes to it, it must not be free, and when the I/O is over and nobody maps it any more, it must not be
//! kept. Both are seen in `/proc/kpageflags` (Documentation/admin-guide/mm/pagemap.rst), which needs root.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::kit::memory::{self, Buffer, Memory, PAGE};
use crate::kit::pagemap::Pagemap;
use crate::kit::pause::Pause;

const SLAB: u64 = 1 << 7;
const MMAP: u64 = 1 << 11;
const ANON: u64 = 1 << 12;
const SWAPCACHE: u64 = 1 << 13;
const SWAPBACKED: u64 = 1 << 14;

/// The frames behind a range, written down while it was mapped.
#[derive(Clone, Debug)]
pub struct Frames(Vec<u64>);

impl Frames {
    /// The frames behind a range of anonymous memory of a process (or `self`); `None` where they may not be known.
    ///
    /// # Errors
    /// The process is gone.
    pub fn of(process: &str, address: usize, len: usize) -> anyhow::Result<Option<Frames>> {
        let map = Pagemap::of(process)?;
        let pages = (address..address + len).step_by(PAGE);
        let frames: Option<Vec<u64>> =
            pages.map(|page| map.frame(page)).collect::<anyhow::Result<_>>()?;
        Ok(frames.filter(|_| File::open("/proc/kpageflags").is_ok()).map(Frames))
    }

    /// How many of them are no user memory any more: the kernel has taken them back, and may give them to anybody. Those
    /// that somebody else got as such memory are not seen.
    ///
    /// # Errors
    /// The flags cannot be read.
    pub fn lost(&self) -> anyhow::Result<usize> {
        drain()?;
        Ok(self.which(|flags| !is_memory(flags))?.len())
    }

    /// How many of them are still what they were although nobody maps them: something holds them. Call
    /// it when the memory is unmapped.
    ///
    /// # Errors
    /// The flags cannot be read.
    pub fn kept(&self) -> anyhow::Result<usize> {
        Ok(self.still()?.len())
    }

    /// Waits until each was seen not to be kept; gives how many were kept all the time until the end of the bound. A
    /// frame that was given back belongs to others, who may keep it.
    ///
    /// # Errors
    /// As [`Frames::kept`].
    pub fn settle(&self, bound: Duration) -> anyhow::Result<usize> {
        let end = Instant::now() + bound;
        let (mut left, mut pause) = (Frames(self.still()?), Pause::default());
        while !left.0.is_empty() && Instant::now() < end {
            pause.rest();
            drain()?;
            left = Frames(left.still()?);
        }
        Ok(left.0.len())
    }

    fn still(&self) -> anyhow::Result<Vec<u64>> {
        self.which(is_kept)
    }

    fn which(&self, wanted: impl Fn(u64) -> bool) -> anyhow::Result<Vec<u64>> {
        let file = File::open("/proc/kpageflags").context("/proc/kpageflags")?;
        let mut found = Vec::new();
        for &frame in &self.0 {
            let mut flags = [0; 8];
            file.read_exact_at(&mut flags, frame * 8).context("read kpageflags")?;
            if wanted(u64::from_le_bytes(flags)) {
                found.push(frame);
            }
        }
        Ok(found)
    }
}

/// Whether flags are those of anonymous user memory. ANON alone does not say it: ANON and KSM are the low bits of
/// a page's mapping (`stable_page_flags` in fs/proc/page.c), and a slab keeps a word of its own there
/// (`struct slab` in mm/slab.h), so that slabs show them too.
fn is_memory(flags: u64) -> bool {
    flags & (ANON | SWAPBACKED | SLAB) == ANON | SWAPBACKED
}

/// Whether they are those of such memory that nobody maps.
fn is_kept(flags: u64) -> bool {
    is_memory(flags) && flags & (MMAP | SWAPCACHE) == 0
}

/// Each CPU keeps a reference on pages that it has lately put on a list; moving any page of ours makes
/// all of them let go.
fn drain() -> anyhow::Result<()> {
    let page = Buffer::new(Memory::Anon, PAGE)?;
    let _ = memory::move_to_node(page.ptr() as usize, 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::pipe::Pipe;

    /// Memory and the frames behind it, where they may be known.
    fn memory(len: usize) -> Option<(Buffer, Frames)> {
        let buffer = Buffer::new(Memory::Anon, len).unwrap();
        // A child of another test would map it for as long as it lives, and mapped is not kept.
        buffer.advise(nix::sys::mman::MmapAdvise::MADV_DONTFORK).unwrap();
        let frames = Frames::of("self", buffer.ptr() as usize, len).unwrap();
        if frames.is_none() {
            eprintln!("skipped: page frames are not readable");
        }
        Some((buffer, frames?))
    }

    #[test]
    fn a_page_that_the_kernel_took_for_a_slab_is_not_kept() {
        // As 6.18 shows them: a page in a CPU's list; slabs of one page, heads and tails, with and without bit 21.
        assert!(is_kept(0x4_0000_5008));
        for slab in [0x1080, 0x20_1080, 0x9080, 0x20_9080, 0x1_1080, 0x21_1080] {
            assert!(!is_kept(slab), "{slab:#x}");
        }
    }

    #[test]
    fn pages_that_are_taken_back_too_early_are_seen() {
        // So many that others cannot have taken them all at once.
        const LEN: usize = 1024 * PAGE;
        let Some((buffer, frames)) = memory(LEN) else { return };
        assert_eq!(frames.lost().unwrap(), 0);
        drop(buffer);
        assert!(frames.lost().unwrap() > 0);
    }

    #[test]
    fn a_page_that_a_pipe_holds_is_kept_until_it_is_drained() {
        const LEN: usize = 4 * PAGE;
        let Some((buffer, frames)) = memory(LEN) else { return };
        let mut pipe = Pipe::new().unwrap();
        assert_eq!(pipe.gift(buffer.ptr(), PAGE), Ok(PAGE));
        assert_eq!((frames.kept().unwrap(), frames.lost().unwrap()), (0, 0), "mapped");
        drop(buffer);
        let end = Instant::now() + Duration::from_secs(10);
        // What was given back may be others' by now.
        let mut left = Frames(frames.still().unwrap());
        while left.0.len() > 1 && Instant::now() < end {
            drain().unwrap();
            left = Frames(left.still().unwrap());
        }
        assert_eq!(left.kept().unwrap(), 1);
        assert!(frames.lost().unwrap() < LEN / PAGE);
        pipe.drain().unwrap();
        assert_eq!(frames.settle(Duration::from_secs(10)).unwrap(), 0);
    }
}
