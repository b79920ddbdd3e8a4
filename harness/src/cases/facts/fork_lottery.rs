//! FA6: how a direct read holds the pages that it goes to, where it cannot be parked: a large read is queued, the
//! process forks, and only forks that found the read unfinished count.

use std::fs::File;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Row, V6_5, V6_9, by_itself, fact};
use crate::cases::case::{Case, Reach};
use crate::cases::expect::EVER;
use crate::fixture::{Fixture, Open};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Engines, Io};
use crate::kit::fork::{Task, child};
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::pagemap::Pagemap;
use crate::kit::seen::Seen;
use crate::kit::verdict::{no_proof, not_run};

pub const CASE: Case = Case {
    id: "FA6",
    name: "fork-lottery",
    claim: "a fork that hits a direct read copies its pages for the child where this kernel pins them",
    groups: &["facts", "fork"],
    reach: Reach::Any,
    variants: || vec![fact("read", observe, ROWS)],
    run: by_itself,
    expected: &[],
};

/// "block: Use page pinning", and "fuse: Fix missing FOLL_PIN for direct-io", 738adade96b2.
const ROWS: &[Row] = &[
    ("ext4|inflight", EVER, "referenced|copied"),
    ("ext4", V6_5, "pinned"),
    ("inflight", V6_9, "pinned"),
];

/// Bytes of the read that a fork is to hit.
const READ: usize = 4 << 20;
/// Most tries to hit it.
const TRIES: usize = 300;
/// Turns of a busy loop by which each try forks later than the one before.
const SWEEP: usize = 64;
/// Observations that it takes to conclude anything but a pin.
const ENOUGH: usize = 20;

/// How a read holds the pages that it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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

fn observe(fixture: &mut Fixture<'_>) -> anyhow::Result<Seen> {
    let file = fixture.file(READ as u64)?;
    let draws = draw(&fixture.open(&file, Open::Direct)?)?;
    let Draws { hits, tries, seconds, .. } = draws;
    let evidence = format!("{hits} of {tries} forks hit a read in flight, in {seconds:.1} s");
    let word = match draws.hold {
        Some(Hold::Pinned) => "pinned",
        Some(Hold::Referenced) => "referenced",
        Some(Hold::Copied) => "copied",
        Some(Hold::Unknown) | None => "not known",
    };
    let seen = Seen::new(word, evidence.clone()).measured(&draws);
    if word != "not known" {
        return Ok(seen);
    }
    fixture.see(seen);
    Err(match draws.hold {
        None => no_proof(evidence),
        _ => not_run("page frames are not readable (no CAP_SYS_ADMIN)"),
    })
}

/// Plays it on a file of [`READ`] bytes.
fn draw(file: &File) -> anyhow::Result<Draws> {
    let start = Instant::now();
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
        let mut flight = engines.start(Engine::Uring, Io::read(file, &buffer, 0..READ, 0))?;
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
