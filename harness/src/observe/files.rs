//! Observations that make their own file in a folder.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;
use nix::sys::mman::ProtFlags;
use tempfile::NamedTempFile;

use super::splice::{self, How};
use super::{Seen, pins};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Engines, Io};
use crate::kit::memory::{self, Buffer, Memory, PAGE};
use crate::kit::sys;
use crate::kit::verdict::not_run;

pub(super) fn file(folder: &Path, content: &[u8]) -> anyhow::Result<NamedTempFile> {
    let file = NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot make a file in {}", folder.display()))?;
    file.as_file().write_all_at(content, 0).context("write")?;
    file.as_file().sync_all().context("fsync")?;
    Ok(file)
}

pub(super) fn direct(file: &NamedTempFile) -> anyhow::Result<File> {
    let opened =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(file.path());
    opened.map_err(|error| not_run(format!("O_DIRECT is refused: {error}")))
}

/// What a splice of a file in the folder puts into a pipe; see [`splice::alias`].
///
/// # Errors
/// No file can be made.
pub fn alias(folder: &Path, how: How) -> anyhow::Result<Seen> {
    splice::alias(file(folder, &[0x5A; 4 * PAGE])?.path(), how)
}

/// The same of a loop device whose file is in the folder.
///
/// # Errors
/// NOTRUN without loop devices.
pub fn device(folder: &Path, how: How) -> anyhow::Result<Seen> {
    let file = file(folder, &[0x5A; 1 << 20])?;
    let handle = OpenOptions::new().read(true).write(true).open(file.path())?;
    let device = sys::attach_loop(&handle).map_err(|error| not_run(format!("{error:#}")))?;
    let seen = splice::alias(&device, how);
    sys::detach_loop(&device)?;
    seen
}

/// Writes 512 bytes with O_DIRECT into a hole: `zeroes around it` when the rest of the block reads as zero.
///
/// # Errors
/// NOTRUN where so little cannot be written directly.
pub fn sub_block(folder: &Path) -> anyhow::Result<Seen> {
    let file = file(folder, &[])?;
    file.as_file().set_len(4 * PAGE as u64)?;
    let handle = direct(&file)?;
    let (buffer, mut engines) = (Buffer::new(Memory::Anon, PAGE)?, Engines::default());
    buffer.fill(0, PAGE, 0x42);
    let flight = engines.start(Engine::Pread, Io::write(&handle, &buffer, 0..512, 512))?;
    let done = engines.finish(flight, bound())?;
    if done != Ok(512) {
        return Err(not_run(format!("a direct write of 512 bytes: {done:?}")));
    }
    let mut block = vec![0xFF; PAGE];
    file.as_file().read_exact_at(&mut block, 0)?;
    let written = block[512..1024].iter().all(|&byte| byte == 0x42);
    let around = block[..512].iter().chain(&block[1024..]).all(|&byte| byte == 0);
    let word = if written && around { "zeroes around it" } else { "other bytes" };
    Ok(Seen::new(word, "512 bytes at 512 of a block that was a hole"))
}

/// Writes four pages with O_DIRECT, the third of which may not be read, over a file of old bytes. `nothing
/// stale` when the count that is returned says exactly how much is new.
///
/// # Errors
/// NOTRUN without O_DIRECT.
pub fn half_mapped(folder: &Path) -> anyhow::Result<Seen> {
    let file = file(folder, &[0x5A; 4 * PAGE])?;
    let handle = direct(&file)?;
    let (buffer, mut engines) = (Buffer::new(Memory::Anon, 4 * PAGE)?, Engines::default());
    buffer.fill(0, 4 * PAGE, 0x42);
    let third = buffer.at(2 * PAGE) as usize;
    memory::protect(third, PAGE, ProtFlags::PROT_NONE)?;
    let flight = engines.start(Engine::Pread, Io::write(&handle, &buffer, 0..4 * PAGE, 0))?;
    let done = engines.finish(flight, bound())?;
    memory::protect(third, PAGE, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
    let mut now = vec![0; 4 * PAGE];
    file.as_file().read_exact_at(&mut now, 0)?;
    let count = done.unwrap_or(0);
    let new = now[..count].iter().all(|&byte| byte == 0x42);
    // Beyond the count old bytes are right, and so are new ones that were submitted before the fault.
    let rest = now[count..].iter().all(|&byte| byte == 0x5A || byte == 0x42);
    let word = if new && rest && count <= 2 * PAGE { "nothing stale" } else { "other bytes" };
    Ok(Seen::new(word, format!("the write returned {done:?} of {}", 4 * PAGE)))
}

/// A read that the page cache cannot answer, so that the server copies into the kernel's pages.
///
/// # Errors
/// No file can be made.
pub fn uncached_read(folder: &Path) -> anyhow::Result<Seen> {
    const LEN: usize = 1024 * PAGE;
    let file = file(folder, &vec![0x5A; LEN])?;
    let mut bytes = vec![0; LEN];
    pins::counted(LEN / PAGE, || {
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        nix::fcntl::posix_fadvise(file.as_file(), 0, 0, advice).context("fadvise")?;
        file.as_file().read_exact_at(&mut bytes, 0).context("read")
    })
}
