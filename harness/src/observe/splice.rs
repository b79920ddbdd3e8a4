//! What splice(2) puts into a pipe: the page cache's own pages or copies, and by which of the kernel's ways.
//!
//! A pipe that shows what is written to the file after the splice holds the file's pages
//! (`filemap_splice_read`); one that does not holds copies (`copy_splice_read`, and before 6.5 the direct read
//! through a pipe-backed iterator). No privilege is needed.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;

use super::{Seen, files};
use crate::kit::memory::PAGE;
use crate::kit::pipe::Pipe;
use crate::kit::sys;
use crate::kit::verdict::not_run;

/// How the file that is spliced is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Without O_DIRECT.
    Buffered,
    /// With O_DIRECT.
    Direct,
    /// Opened without, O_DIRECT set by fcntl(2).
    Set,
    /// Opened with O_DIRECT, cleared by fcntl(2).
    Cleared,
}

/// Splices the first page of a file, overwrites the page, looks at the pipe, and restores the page:
/// `page cache` or `copies`.
///
/// # Errors
/// The file cannot be opened or written.
pub fn alias(path: &Path, how: How) -> anyhow::Result<Seen> {
    let flags = if matches!(how, How::Direct | How::Cleared) { libc::O_DIRECT } else { 0 };
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            return Ok(Seen::new("refused: EINVAL", "open with O_DIRECT"));
        }
        other => other.with_context(|| path.display().to_string())?,
    };
    if matches!(how, How::Set | How::Cleared)
        && let Err(errno) = sys::set_direct(file.as_raw_fd(), how == How::Set)
    {
        return Ok(Seen::new(format!("refused: {errno:?}"), "fcntl F_SETFL"));
    }
    let writer = OpenOptions::new().read(true).write(true).open(path)?;
    let mut old = vec![0; PAGE];
    writer.read_exact_at(&mut old, 0).context("read the first page")?;
    let new: Vec<u8> = old.iter().map(|byte| !byte).collect();
    let mut pipe = Pipe::new()?;
    match pipe.fill(&file, Some(0), PAGE) {
        Ok(PAGE) => {}
        Ok(count) => anyhow::bail!("splice returned {count} of {PAGE}"),
        Err(errno) => return Ok(Seen::new(format!("refused: {errno:?}"), "splice")),
    }
    writer.write_all_at(&new, 0).context("overwrite the first page")?;
    let seen = pipe.drain();
    writer.write_all_at(&old, 0).context("restore the first page")?;
    let seen = seen?;
    if seen == new {
        Ok(Seen::new("page cache", "a later write shows in the pipe"))
    } else if seen == old {
        Ok(Seen::new("copies", "a later write does not show in the pipe"))
    } else {
        Ok(Seen::new("other bytes", "the pipe holds neither the old nor the new bytes"))
    }
}

/// Whether something that is no regular file can be spliced: `works`, or the errno.
///
/// # Errors
/// NOTRUN when it is not there.
pub fn special(path: &str) -> anyhow::Result<Seen> {
    let file = File::open(path).map_err(|error| not_run(format!("{path}: {error}")))?;
    of(&file, path)
}

/// As [`special`], of an open file.
///
/// # Errors
/// No pipe.
pub fn of(file: &File, name: &str) -> anyhow::Result<Seen> {
    let pipe = Pipe::new()?;
    Ok(match pipe.fill(file, None, 64) {
        Ok(count) => Seen::new("works", format!("{name}: {count} bytes")),
        Err(errno) => Seen::new(format!("refused: {errno:?}"), name),
    })
}

/// A kind of file that has a read method and no splice-read: an eventfd. `refused: EINVAL` since 5.10.
///
/// # Errors
/// No eventfd.
pub fn without_method() -> anyhow::Result<Seen> {
    let event = nix::sys::eventfd::EventFd::from_value(1).context("eventfd")?;
    of(&File::from(std::os::fd::OwnedFd::from(event)), "eventfd")
}

/// Splices a hole of a tmpfs file (a memfd): `allocates nothing`, or how many blocks the file has then.
///
/// # Errors
/// No memfd, or the splice failed.
pub fn shmem_hole() -> anyhow::Result<Seen> {
    let memory = nix::sys::memfd::memfd_create("hole", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let file = File::from(memory);
    file.set_len(16 * PAGE as u64)?;
    let mut pipe = Pipe::new()?;
    let count = pipe.fill_all(&file, 16 * PAGE).context("splice a hole")?;
    let zero = pipe.drain()?.iter().all(|&byte| byte == 0);
    let blocks = file.metadata()?.blocks();
    let evidence = format!("{count} bytes, {}", if zero { "all zero" } else { "not all zero" });
    let word = if blocks == 0 { "allocates nothing" } else { "allocates pages" };
    Ok(Seen::new(word, format!("{evidence}; st_blocks {blocks}")))
}

/// A direct splice that meets the end of a file: the count, and what is in the pipe. `trimmed` when both are
/// what the file has.
///
/// # Errors
/// The file cannot be made.
pub fn short_direct(folder: &Path) -> anyhow::Result<Seen> {
    let content = vec![0x5A; 3 * PAGE + 100];
    let file = files::file(folder, &content)?;
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(file.path());
    let direct = direct.map_err(|error| not_run(format!("O_DIRECT: {error}")))?;
    let mut pipe = Pipe::new()?;
    let count = pipe.fill_all(&direct, 16 * PAGE);
    let held = pipe.held().context("FIONREAD")?;
    let right = pipe.drain()? == content && count == Ok(content.len());
    let evidence = format!("splice says {count:?}, the pipe holds {held}, of {}", content.len());
    Ok(Seen::new(if right { "trimmed" } else { "wrong" }, evidence))
}

/// Whether this kernel has ITER_PIPE: `gone` where `copy_splice_read` (6.5) is, `there` where
/// `generic_file_splice_read` is.
///
/// # Errors
/// NOTRUN when the kernel does not show its symbols.
pub fn iter_pipe() -> anyhow::Result<Seen> {
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let has = |name: &str| symbols.lines().any(|line| line.split(' ').nth(2) == Some(name));
    match (has("copy_splice_read"), has("generic_file_splice_read")) {
        (true, false) => Ok(Seen::new("gone", "copy_splice_read is in /proc/kallsyms")),
        (false, true) => Ok(Seen::new("there", "generic_file_splice_read is in /proc/kallsyms")),
        _ => Err(not_run("/proc/kallsyms shows neither way of splice")),
    }
}
