//! FA5: the alignment that direct I/O wants, as statx(2) tells it (6.1) and as trying shows it.

use std::fs::File;

use serde::{Deserialize, Serialize};

use super::{by_itself, fact};
use crate::cases::case::{Case, Reach};
use crate::cases::expect::EVER;
use crate::fixture::{Fixture, Open};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Engines, Io};
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::seen::Seen;
use crate::kit::sys;

pub const CASE: Case = Case {
    id: "FA5",
    name: "direct-alignment",
    claim: "direct I/O that is aligned as statx tells works",
    groups: &["facts"],
    reach: Reach::Any,
    variants: || vec![fact("read", observe, &[("*", EVER, "as told|not told")])],
    run: by_itself,
    expected: &[],
};

/// Alignments, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alignment {
    /// In memory and in the file by STATX_DIOALIGN; `None` where the kernel or filesystem does not tell.
    /// Zeroes say that the file takes no direct I/O.
    pub told: Option<(u32, u32)>,
    /// Smallest power of two to which the memory of a read that worked was aligned.
    pub memory: Option<usize>,
    /// The same of its place and length in the file.
    pub file: Option<usize>,
}

fn observe(fixture: &mut Fixture<'_>) -> anyhow::Result<Seen> {
    let file = fixture.file(4 * PAGE as u64)?;
    let direct = fixture.open(&file, Open::Direct)?;
    let told = sys::direct_alignment(&file.path)?;
    let sizes = || (0..=12).map(|shift| 1 << shift);
    let memory = sizes().find(|&size| works(&direct, size, PAGE));
    let in_file = sizes().find(|&size| works(&direct, PAGE, size));
    let word = match told {
        None => "not told",
        // What is told is what is safe; less may work as well.
        Some((memory, file)) if works(&direct, memory as usize, file as usize) => "as told",
        Some(_) => "refused where told",
    };
    let found = Alignment { told, memory, file: in_file };
    let evidence =
        format!("statx says {told:?}, memory from {memory:?}, file from {in_file:?} bytes");
    Ok(Seen::new(word, evidence).measured(&found))
}

/// Whether a read works at odd multiples of these, in memory and in the file. What is larger than a page is a multiple of it.
fn works(file: &File, memory: usize, place: usize) -> bool {
    let (memory, place) = (memory.clamp(1, PAGE), place.clamp(1, PAGE));
    let Ok(buffer) = Buffer::new(Memory::Anon, 4 * PAGE) else { return false };
    let mut engines = Engines::default();
    let io = Io::read(file, &buffer, memory..memory + place, place as u64);
    let done = engines.start(Engine::Pread, io).and_then(|flight| engines.finish(flight, bound()));
    matches!(done, Ok(Ok(count)) if count == place)
}
