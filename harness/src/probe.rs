//! `inflight-race probe DIR`: what a filesystem does with pages in flight, found out by trying.
//!
//! Nothing is parked, so the fork probe is a lottery that is played until it was hit: a large direct read
//! is queued, the process forks, and only forks that found the read unfinished count.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::engine::{Engine, Engines, Io};
use crate::fork::{Task, child};
use crate::kernel::Kernel;
use crate::memory::{Buffer, Memory, PAGE};
use crate::pagemap::Pagemap;
use crate::pipe::Pipe;
use crate::scene::BOUND;
use crate::stamp;

/// Bytes of the read that a fork is to hit.
const READ: usize = 4 << 20;
/// Most tries to hit it.
const TRIES: usize = 300;

/// Turns of a busy loop by which each try forks later than the one before.
const SWEEP: usize = 64;
/// Observations that it takes to conclude anything but a pin.
const ENOUGH: usize = 20;

/// What was found out.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// Kernel release.
    pub kernel: String,
    /// Whether files can be opened with O_DIRECT.
    pub direct: bool,
    /// Smallest direct read that is accepted, in bytes.
    pub direct_grain: Option<usize>,
    /// How pages are held by a direct read: `pinned`, `referenced`, or why that is not known.
    pub held: String,
    /// Forks that found a read unfinished, of how many.
    pub hits: (usize, usize),
    /// What a buffered splice puts into a pipe: `page cache` or `copies`.
    pub splice_buffered: String,
    /// What a splice under O_DIRECT does.
    pub splice_direct: String,
    /// Whether memory under direct I/O needs MADV_DONTFORK here.
    pub needs_dontfork: Option<bool>,
}

/// Probes a directory.
///
/// # Errors
/// It cannot be written to.
pub fn probe(folder: &Path) -> anyhow::Result<Findings> {
    let file = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot make a file in {}", folder.display()))?;
    file.as_file().write_all_at(&stamp::content(1, 1, 0, READ), 0).context("write")?;
    file.as_file().sync_all().context("fsync")?;
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(file.path()).ok();
    let mut findings = Findings {
        kernel: Kernel::running()?.release,
        direct: direct.is_some(),
        direct_grain: direct.as_ref().and_then(grain),
        held: "O_DIRECT is refused".to_owned(),
        hits: (0, 0),
        splice_buffered: splice(file.as_file(), file.as_file())?,
        splice_direct: "O_DIRECT is refused".to_owned(),
        needs_dontfork: None,
    };
    if let Some(direct) = &direct {
        findings.splice_direct = splice(direct, file.as_file())?;
        let (held, hits) = hold(direct)?;
        findings.hits = hits;
        let (text, needs) = match held {
            Some(Hold::Pinned) => ("pinned", Some(false)),
            Some(Hold::Referenced) => ("referenced", Some(true)),
            Some(Hold::Copied) => ("not held: the kernel copies", Some(false)),
            Some(Hold::Unknown) => ("page frames are not readable (no CAP_SYS_ADMIN)", None),
            None => ("no fork hit a read in flight", None),
        };
        (findings.held, findings.needs_dontfork) = (text.to_owned(), needs);
    }
    Ok(findings)
}

/// The smallest power of two that can be read at an odd multiple of itself.
fn grain(file: &File) -> Option<usize> {
    let buffer = Buffer::new(Memory::Anon, 2 * PAGE).ok()?;
    let mut engines = Engines::default();
    [1, 512, 1024, 2048, 4096].into_iter().find(|&size| {
        let io = Io::read(file, &buffer, size..2 * size, size as u64);
        let flight = engines.start(Engine::Pread, io);
        let done = flight.and_then(|flight| engines.finish(flight, BOUND));
        matches!(done, Ok(Ok(count)) if count == size)
    })
}

/// Whether a pipe that was filled from `from` shows what is written to the file afterwards.
fn splice(from: &File, file: &File) -> anyhow::Result<String> {
    let mut pipe = Pipe::new()?;
    if let Err(errno) = pipe.fill(from, Some(0), PAGE) {
        return Ok(format!("refused: {errno}"));
    }
    file.write_all_at(&stamp::content(1, 2, 0, PAGE), 0).context("overwrite")?;
    let is_new = pipe.drain()? == stamp::content(1, 2, 0, PAGE);
    file.write_all_at(&stamp::content(1, 1, 0, PAGE), 0).context("overwrite")?;
    file.sync_all().context("fsync")?;
    Ok(if is_new { "page cache" } else { "copies" }.to_owned())
}

/// How a read holds the pages that it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Pinned,
    Referenced,
    Copied,
    Unknown,
}

fn hold(file: &File) -> anyhow::Result<(Option<Hold>, (usize, usize))> {
    let mut engines = Engines::default();
    let (mut hits, mut same, mut copied) = (0, 0, 0);
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
        let task = Task::Differs { start: buffer.ptr(), len: 0, byte: 0 };
        let forked = child(task)?;
        let was_unfinished = !engines.is_done(&mut flight)?;
        let theirs = Pagemap::of(&forked.pid().to_string())?.frame(last)?;
        let done = engines.finish(flight, BOUND)?;
        let after = own.frame(last)?;
        forked.finish(BOUND)?;
        anyhow::ensure!(done == Ok(READ), "a direct read of {READ} bytes returned {done:?}");
        hits += usize::from(was_unfinished);
        // Only a pin makes fork copy the page for the child and leave the parent the old one. When the parent
        // has a new one, the page was stored to, or taken, after the fork: that says little.
        match (before, theirs, after) {
            (Some(before), Some(theirs), Some(after)) if theirs != before && after == before => {
                return Ok((Some(Hold::Pinned), (hits, tries)));
            }
            (Some(before), Some(_), Some(after)) if after != before => copied += 1,
            (Some(_), Some(_), Some(_)) => same += usize::from(was_unfinished),
            _ => return Ok((Some(Hold::Unknown), (hits, tries))),
        }
    }
    let hold = match (same, copied) {
        (same, copied) if same >= ENOUGH && same > copied => Some(Hold::Referenced),
        (_, copied) if copied >= ENOUGH => Some(Hold::Copied),
        _ => None,
    };
    Ok((hold, (hits, TRIES)))
}

/// Probes a directory and prints what was found.
///
/// # Errors
/// As [`probe`].
pub fn print(folder: &Path, json: bool) -> anyhow::Result<()> {
    let found = probe(folder)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(());
    }
    println!("kernel            {}", found.kernel);
    let grain = found.direct_grain.map_or("?".to_owned(), |grain| grain.to_string());
    println!(
        "O_DIRECT          {}",
        if found.direct { format!("yes, from {grain} bytes") } else { "no".into() }
    );
    let (hits, tries) = found.hits;
    println!("pages in a read   {} ({hits} of {tries} forks hit one in flight)", found.held);
    println!("splice buffered   {}", found.splice_buffered);
    println!("splice O_DIRECT   {}", found.splice_direct);
    println!(
        "MADV_DONTFORK     {}",
        match found.needs_dontfork {
            Some(false) => "not needed",
            Some(true) =>
                "needed for memory under direct I/O: fork and a store can lose what is read",
            None => "not known: use it",
        }
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_directory_can_be_probed() {
        let folder = tempfile::tempdir().unwrap();
        let found = probe(folder.path()).unwrap();
        assert!(["page cache", "copies"].contains(&found.splice_buffered.as_str()), "{found:?}");
        assert!(found.direct || found.needs_dontfork.is_none());
        assert!(probe(Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
    }
}
