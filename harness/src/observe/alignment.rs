//! Alignment that direct I/O wants, as statx(2) tells it and as trying shows it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

use super::files;
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Engines, Io};
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::sys;

/// Alignments, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Alignment {
    /// In memory and in the file by STATX_DIOALIGN; `None` where the kernel or filesystem does not tell.
    /// Zeroes say that the file takes no direct I/O.
    pub told: Option<(u32, u32)>,
    /// Smallest power of two to which the memory of a read that worked was aligned.
    pub memory: Option<usize>,
    /// The same of its place and length in the file.
    pub file: Option<usize>,
}

/// Finds the alignments in a folder; `None` when O_DIRECT is refused.
///
/// # Errors
/// No file can be made.
pub fn of(folder: &Path) -> anyhow::Result<Option<Alignment>> {
    let file = files::file(folder, &[0x5A; 4 * PAGE])?;
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(file.path());
    let Ok(direct) = direct else { return Ok(None) };
    let told = sys::direct_alignment(file.path())?;
    let sizes = || (0..=12).map(|shift| 1 << shift);
    let memory = sizes().find(|&size| works(&direct, size, PAGE));
    let in_file = sizes().find(|&size| works(&direct, PAGE, size));
    Ok(Some(Alignment { told, memory, file: in_file }))
}

/// Whether a read works at odd multiples of these, in memory and in the file.
fn works(file: &File, memory: usize, place: usize) -> bool {
    let Ok(buffer) = Buffer::new(Memory::Anon, 4 * PAGE) else { return false };
    let mut engines = Engines::default();
    let io = Io::read(file, &buffer, memory..memory + place, place as u64);
    let done = engines.start(Engine::Pread, io).and_then(|flight| engines.finish(flight, bound()));
    matches!(done, Ok(Ok(count)) if count == place)
}
