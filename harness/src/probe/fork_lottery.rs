//! How a direct read holds the pages that it goes to, where it cannot be parked: a large read is queued, the
//! process forks, and only forks that found the read unfinished count.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Engines, Io};
use crate::kit::fork::{Task, child};
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::pagemap::Pagemap;

/// Bytes of the read that a fork is to hit.
pub const READ: usize = 4 << 20;
/// Most tries to hit it.
const TRIES: usize = 300;
/// Turns of a busy loop by which each try forks later than the one before.
const SWEEP: usize = 64;
/// Observations that it takes to conclude anything but a pin.
const ENOUGH: usize = 20;

/// How a read holds the pages that it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// The child got its own copy at fork.
    Pinned,
    /// Parent and child shared the page while the read was in flight.
    Referenced,
    /// The page is not touched by the device: the kernel copies.
    Copied,
    /// Page frames are not readable.
    Unknown,
}

/// What came of the lottery.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Draws {
    /// What it says; `None` when no fork hit a read in flight.
    pub hold: Option<Hold>,
    /// Forks that found the read unfinished.
    pub hits: usize,
    /// Forks.
    pub tries: usize,
    /// How long it was played, in seconds.
    pub seconds: f64,
}

/// Plays it on a file of at least [`READ`] bytes.
///
/// # Errors
/// O_DIRECT is refused, or io_uring.
pub fn draw(path: &Path) -> anyhow::Result<Draws> {
    let start = Instant::now();
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
    let file = file.with_context(|| path.display().to_string())?;
    let mut engines = Engines::default();
    let (mut hits, mut same, mut copied) = (0, 0, 0);
    let ended =
        |hold, hits, tries| Ok(Draws { hold, hits, tries, seconds: start.elapsed().as_secs_f64() });
    for tries in 1..=TRIES {
        let buffer = Buffer::new(Memory::Anon, READ)?;
        // The last page is the last to be let go.
        let last = buffer.at(READ - PAGE) as usize;
        let own = Pagemap::of("self")?;
        let before = own.frame(last)?;
        let mut flight = engines.start(Engine::Uring, Io::read(&file, &buffer, 0..READ, 0))?;
        // Sweeps the moment of the fork over the read.
        for _ in 0..tries * SWEEP {
            std::hint::spin_loop();
        }
        let forked = child(Task::Differs { start: buffer.ptr(), len: 0, byte: 0 })?;
        let was_unfinished = !engines.is_done(&mut flight)?;
        let theirs = Pagemap::of(&forked.pid().to_string())?.frame(last)?;
        let done = engines.finish(flight, bound())?;
        let after = own.frame(last)?;
        forked.finish(bound())?;
        anyhow::ensure!(done == Ok(READ), "a direct read of {READ} bytes returned {done:?}");
        hits += usize::from(was_unfinished);
        // Only a pin makes fork copy the page for the child and leave the parent the old one. When the parent
        // has a new one, the page was stored to, or taken, after the fork: that says little.
        match (before, theirs, after) {
            (Some(before), Some(theirs), Some(after)) if theirs != before && after == before => {
                return ended(Some(Hold::Pinned), hits, tries);
            }
            (Some(before), Some(_), Some(after)) if after != before => copied += 1,
            (Some(_), Some(_), Some(_)) => same += usize::from(was_unfinished),
            _ => return ended(Some(Hold::Unknown), hits, tries),
        }
    }
    let hold = match (same, copied) {
        (same, copied) if same >= ENOUGH && same > copied => Some(Hold::Referenced),
        (_, copied) if copied >= ENOUGH => Some(Hold::Copied),
        _ => None,
    };
    ended(hold, hits, TRIES)
}
