//! `inflight-race probe DIR`: what a filesystem does with pages in flight, found out by trying, with the
//! evidence.
//!
//! Nothing in the directory can be parked, so whether fork is safe is a lottery that is played until it was
//! won; how often and how long is part of the answer. What the kernel does on mounts that can be parked is
//! played for certain, by the cases.

mod fork_lottery;
mod print;

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::kit::kernel::Kernel;
use crate::kit::stamp;
use crate::kit::verdict::Stop;
use crate::observe::alignment::{self, Alignment};
use crate::observe::bugs::{self, Bug};
use crate::observe::splice::{self, How};
use crate::observe::{Seen, pins, register};
use crate::target;
use crate::target::Target;

pub use fork_lottery::{Draws, Hold};
pub use print::print;

/// What was found out.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// Release and build of the kernel.
    pub kernel: Kernel,
    /// The directory.
    pub folder: PathBuf,
    /// Type of its filesystem.
    pub filesystem: String,
    /// Alignments of direct I/O; `None` when O_DIRECT is refused.
    pub alignment: Option<Alignment>,
    /// How a direct read holds the pages that it goes to, and whether fork is safe beside it.
    pub held: Option<Draws>,
    /// What a direct read counts as pins.
    pub pinned: Seen,
    /// Whether memory under direct I/O needs MADV_DONTFORK here; `None` when that is not known.
    pub needs_dontfork: Option<bool>,
    /// A command that finds out for certain what the kernel does on such a filesystem.
    pub certain: Option<String>,
    /// Whether the kernel has a pipe-backed iterator.
    pub iter_pipe: Seen,
    /// What splice puts into a pipe, by how the file is open.
    pub splice: Vec<(&'static str, Seen)>,
    /// Which mappings can be registered with io_uring.
    pub registered: Vec<(&'static str, Seen)>,
    /// Whether the zero page is counted as a pin.
    pub zero_page: Seen,
    /// Known bugs that are live, by where they were tried.
    pub bugs: Vec<Tried>,
}

/// A place where the known bugs were tried.
#[derive(Clone, Debug, Serialize)]
pub struct Tried {
    /// Where.
    pub place: String,
    /// Why they could not be.
    pub not_tried: Option<String>,
    /// Those that are live.
    pub bugs: Vec<Bug>,
}

/// Probes a directory.
///
/// # Errors
/// It cannot be written to.
pub fn probe(folder: &Path) -> anyhow::Result<Findings> {
    let file = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot make a file in {}", folder.display()))?;
    std::fs::write(file.path(), stamp::content(1, 1, 0, fork_lottery::READ)).context("write")?;
    file.as_file().sync_all().context("fsync")?;
    let filesystem = target::filesystem(folder)?;
    let alignment = alignment::of(folder)?;
    let held = match alignment {
        Some(_) => Some(fork_lottery::draw(file.path())?),
        None => None,
    };
    let pinned = answer(pins::direct_read(folder))?;
    let needs_dontfork = held.as_ref().and_then(|draws| match draws.hold {
        Some(Hold::Pinned | Hold::Copied) => Some(false),
        Some(Hold::Referenced) => Some(true),
        Some(Hold::Unknown) | None if pinned.word == "pinned" => Some(false),
        Some(Hold::Unknown) | None => None,
    });
    let ways = [
        ("buffered", How::Buffered),
        ("O_DIRECT", How::Direct),
        ("O_DIRECT set on the open file", How::Set),
        ("O_DIRECT cleared again", How::Cleared),
    ];
    let mut splice = Vec::new();
    for (name, how) in ways {
        splice.push((name, answer(splice::alias(file.path(), how))?));
    }
    Ok(Findings {
        kernel: Kernel::running()?,
        folder: folder.to_owned(),
        certain: bugs::certain(&filesystem),
        bugs: live(folder, &filesystem)?,
        filesystem,
        alignment,
        held,
        pinned,
        needs_dontfork,
        iter_pipe: answer(splice::iter_pipe())?,
        splice,
        registered: register::matrix(folder)
            .or_else(|error| answer(Err(error)).map(|seen| vec![("any", seen)]))?,
        zero_page: answer(pins::process_vm_zero())?,
    })
}

/// What cannot be tried here is an answer too.
fn answer(seen: anyhow::Result<Seen>) -> anyhow::Result<Seen> {
    match seen {
        Err(error) => match error.downcast_ref() {
            Some(Stop::NotRun(reason)) => Ok(Seen::new("not known", reason)),
            _ => Err(error),
        },
        seen => seen,
    }
}

/// Plays the known bugs in the directory, where nothing can be parked, and for certain on filesystems of
/// the same kernel that can be gated.
fn live(folder: &Path, filesystem: &str) -> anyhow::Result<Vec<Tried>> {
    let here = folder.canonicalize()?.display().to_string();
    let mut places = vec![(format!("{here}, nothing parked"), here)];
    if Target::parse(filesystem).is_ok_and(|target| target.is_looped()) {
        places.push((format!("{filesystem} behind the gate"), filesystem.to_owned()));
    }
    places.push(("FUSE behind the gate".to_owned(), "inflight".to_owned()));
    let try_at = |(place, target): (String, String)| match bugs::live(&target) {
        Ok(bugs) => Ok(Tried { place, not_tried: None, bugs }),
        Err(error) => match error.downcast_ref() {
            Some(Stop::NotRun(reason)) => {
                Ok(Tried { place, not_tried: Some(reason.clone()), bugs: Vec::new() })
            }
            _ => Err(error),
        },
    };
    places.into_iter().map(try_at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_written_to_is_named() {
        assert!(probe(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
    }
}
