//! Which mappings io_uring accepts as registered buffers (a long pin for writing).

use std::fs::OpenOptions;
use std::path::Path;

use anyhow::Context;

use super::Seen;
use crate::kit::engine::Engines;
use crate::kit::mapping::Mapping;
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::verdict::Stop;

/// Kinds of mappings, those of files in the folder that is looked at.
pub const KINDS: [&str; 10] = [
    "anonymous",
    "untouched",
    "huge page (THP)",
    "huge page (hugetlb)",
    "shared anonymous",
    "memfd",
    "file, MAP_SHARED",
    "file, MAP_PRIVATE",
    "file, MAP_PRIVATE, stored to",
    "file, read-only",
];

/// Tries to register a page of each kind: `accepted`, `refused: ERRNO`, or why there is none of that kind.
///
/// # Errors
/// No io_uring, or no file can be made in the folder.
pub fn matrix(folder: &Path) -> anyhow::Result<Vec<(&'static str, Seen)>> {
    KINDS.iter().map(|&kind| Ok((kind, of(kind, folder)?))).collect()
}

/// Tries one of [`KINDS`].
///
/// # Errors
/// As [`matrix`].
pub fn of(kind: &str, folder: &Path) -> anyhow::Result<Seen> {
    match attempt(kind, folder) {
        Err(error) => match error.downcast_ref() {
            Some(Stop::NotRun(reason)) if !reason.contains("io_uring") => {
                Ok(Seen::new("not tried", reason))
            }
            _ => Err(error),
        },
        other => other,
    }
}

fn attempt(kind: &str, folder: &Path) -> anyhow::Result<Seen> {
    let mut engines = Engines::default();
    let mut try_at = |memory: *mut u8, len: usize| -> anyhow::Result<Seen> {
        Ok(match engines.register(memory, len)? {
            Ok(()) => Seen::new("accepted", ""),
            Err(errno) => Seen::new(format!("refused: {errno:?}"), ""),
        })
    };
    let memory = match kind {
        "anonymous" => Some(Memory::Anon),
        "huge page (THP)" => Some(Memory::Thp),
        "huge page (hugetlb)" => Some(Memory::Hugetlb),
        "shared anonymous" => Some(Memory::Shared),
        "memfd" => Some(Memory::Memfd),
        _ => None,
    };
    if let Some(memory) = memory {
        let buffer = Buffer::new(memory, PAGE)?;
        return try_at(buffer.ptr(), buffer.len());
    }
    if kind == "untouched" {
        let buffer = Buffer::new(Memory::Zero, PAGE)?;
        return try_at(buffer.ptr(), buffer.len());
    }
    let file = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot make a file in {}", folder.display()))?;
    file.as_file().set_len(PAGE as u64)?;
    let handle = OpenOptions::new().read(true).write(true).open(file.path())?;
    let mapping = match kind {
        "file, MAP_SHARED" => Mapping::shared(&handle, PAGE)?,
        "file, read-only" => Mapping::private(&handle, PAGE)?,
        _ => Mapping::private_writable(&handle, PAGE)?,
    };
    if kind == "file, MAP_PRIVATE, stored to" {
        mapping.store(0, &[1]);
    }
    try_at(mapping.address(0), PAGE)
}
