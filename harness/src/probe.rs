//! `inflight-race probe DIR`: what a filesystem does with pages in flight, found out by trying, with the
//! evidence.
//!
//! Nothing in the directory can be parked, so whether fork is safe is a lottery that is played until it was
//! won; how often and how long is part of the answer. What the kernel does on mounts that can be parked is
//! played for certain, by the cases.

mod bugs;
mod print;

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::cases::facts::{Alignment, Draws, Hold};
use crate::kit::kernel::Kernel;
use crate::kit::seen::Seen;
use crate::kit::verdict::{Verdict, reason_not_run};
use crate::run::results::Run;
use crate::run::{self, Order};
use crate::target;
use crate::target::Target;

pub use bugs::Bug;
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

/// What is played in the directory.
const CASES: [&str; 6] = [
    "FA1:iter-pipe",
    "FA2:direct-read|process-vm-zero",
    "FA5",
    "FA6",
    "SP2:buffered|direct|direct-set|direct-cleared",
    "RB3",
];
/// Ways in which a file is open, by the variants of SP2.
const WAYS: [(&str, &str); 4] = [
    ("buffered", "buffered"),
    ("direct", "O_DIRECT"),
    ("direct-set", "O_DIRECT set on the open file"),
    ("direct-cleared", "O_DIRECT cleared again"),
];
/// Mappings that are registered, by the variants of RB3.
const KINDS: [(&str, &str); 10] = [
    ("anon", "anonymous"),
    ("untouched", "untouched"),
    ("thp", "huge page (THP)"),
    ("hugetlb", "huge page (hugetlb)"),
    ("shared", "shared anonymous"),
    ("memfd", "memfd"),
    ("file-shared", "file, MAP_SHARED"),
    ("file-private", "file, MAP_PRIVATE"),
    ("file-stored", "file, MAP_PRIVATE, stored to"),
    ("read-only", "file, read-only"),
];

/// Probes a directory.
///
/// # Errors
/// It cannot be written to.
pub fn probe(folder: &Path) -> anyhow::Result<Findings> {
    tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot make a file in {}", folder.display()))?;
    let filesystem = target::filesystem(folder)?;
    let target = Target::Dir(folder.canonicalize()?);
    let run = run::silently(Order::of(target, CASES.map(str::to_owned).into())?)?;
    let of = |case: &str, variant: &str| seen(&run, case, variant);
    let all = |case: &str, names: &[(&str, &'static str)]| {
        let one = |&(variant, name): &(&str, &'static str)| Ok((name, of(case, variant)?));
        names.iter().map(one).collect::<anyhow::Result<Vec<_>>>()
    };
    let held: Option<Draws> = serde_json::from_value(of("FA6", "read")?.measured)?;
    let pinned = of("FA2", "direct-read")?;
    let needs_dontfork = held.as_ref().and_then(|draws| match draws.hold {
        Some(Hold::Pinned | Hold::Copied) => Some(false),
        Some(Hold::Referenced) => Some(true),
        Some(Hold::Unknown) | None if pinned.word == "pinned" => Some(false),
        Some(Hold::Unknown) | None => None,
    });
    Ok(Findings {
        kernel: Kernel::running()?,
        folder: folder.to_owned(),
        certain: bugs::certain(&filesystem),
        bugs: live(folder, &filesystem)?,
        filesystem,
        alignment: serde_json::from_value(of("FA5", "read")?.measured)?,
        held,
        pinned,
        needs_dontfork,
        iter_pipe: of("FA1", "iter-pipe")?,
        splice: all("SP2", &WAYS)?,
        registered: all("RB3", &KINDS)?,
        zero_page: of("FA2", "process-vm-zero")?,
    })
}

/// What a variant saw. What cannot be tried here is an answer too.
fn seen(run: &Run, case: &str, variant: &str) -> anyhow::Result<Seen> {
    let entry =
        run.variants.iter().find(|entry| (&*entry.case, &*entry.variant) == (case, variant));
    let entry = entry.with_context(|| format!("{case}:{variant} was not played"))?;
    match (&entry.played.seen, &entry.verdict) {
        (Some(seen), _) => Ok(seen.clone()),
        (None, Verdict::Broken { reason }) => anyhow::bail!("{case}:{variant}: {reason}"),
        (None, verdict) => Ok(Seen::new("not known", verdict.detail())),
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
        Err(error) => match reason_not_run(&error) {
            Some(reason) => {
                Ok(Tried { place, not_tried: Some(reason.to_owned()), bugs: Vec::new() })
            }
            None => Err(error),
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
