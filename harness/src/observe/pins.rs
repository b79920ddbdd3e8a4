//! Which calls take page pins (FOLL_PIN), by the kernel's own count.
//!
//! A call that pins adds a page's worth to `nr_foll_pin_acquired` for every page; one that takes plain
//! references (FOLL_GET), or none, adds nothing.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Context;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};

use super::{Seen, files};
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Engines, Io};
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::pagemap::{self, Pagemap};
use crate::kit::pins::{self, Taken};
use crate::kit::pipe::Pipe;
use crate::kit::sys;
use crate::kit::verdict::not_run;

/// Pages that one call is asked to move.
pub(super) const PAGES: usize = 1024;
const LEN: usize = PAGES * PAGE;

/// Counts the pins of a call that moves so many pages: `pinned` or `not pinned`.
///
/// # Errors
/// The call's own, a kernel without the counters, or NOTRUN: the count is the whole machine's, and others pin as much.
pub fn counted(pages: usize, call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Seen> {
    let (word, pins) = match pins::taken_by(pages, call)? {
        Taken::AtMost(pins) => ("not pinned", pins),
        Taken::Pages(pins) => ("pinned", pins),
        Taken::Unknown(others) => {
            return Err(not_run(format!(
                "the kernel counts everybody's pins, and others pin {others} pages and more in the time of a call; \
                 ask again when it is quiet"
            )));
        }
    };
    Ok(Seen::new(word, format!("{pins} pins counted for {pages} pages")))
}

/// A file of [`LEN`] bytes to read from with O_DIRECT, and the file itself.
fn direct(folder: &Path) -> anyhow::Result<(tempfile::NamedTempFile, File)> {
    let file = files::file(folder, &vec![0x5A; LEN])?;
    let direct = files::direct(&file)?;
    Ok((file, direct))
}

fn transfer(engines: &mut Engines, engine: Engine, io: Io) -> anyhow::Result<()> {
    let flight = engines.start(engine, io)?;
    let done = engines.finish(flight, bound())?;
    anyhow::ensure!(done == Ok(io.len), "{:?} of {} bytes returned {done:?}", io.way, io.len);
    Ok(())
}

/// An O_DIRECT read into user memory (an iterator that is user-backed).
///
/// # Errors
/// NOTRUN without O_DIRECT or counters.
pub fn direct_read(folder: &Path) -> anyhow::Result<Seen> {
    let (_file, handle) = direct(folder)?;
    let (buffer, mut engines) = (Buffer::new(Memory::Anon, LEN)?, Engines::default());
    let io = Io::read(&handle, &buffer, 0..LEN, 0);
    counted(PAGES, || transfer(&mut engines, Engine::Pread, io))
}

/// An O_DIRECT write from user memory.
///
/// # Errors
/// As [`direct_read`].
pub fn direct_write(folder: &Path) -> anyhow::Result<Seen> {
    let (_file, handle) = direct(folder)?;
    let (buffer, mut engines) = (Buffer::new(Memory::Anon, LEN)?, Engines::default());
    let io = Io::write(&handle, &buffer, 0..LEN, 0);
    counted(PAGES, || transfer(&mut engines, Engine::Pread, io))
}

/// An O_DIRECT read into a registered buffer, which is pinned already: the read itself (a BVEC) adds none.
///
/// # Errors
/// As [`direct_read`]; NOTRUN without io_uring.
pub fn fixed_read(folder: &Path) -> anyhow::Result<Seen> {
    let (_file, handle) = direct(folder)?;
    let (buffer, mut engines) = (Buffer::new(Memory::Anon, LEN)?, Engines::default());
    register(&mut engines, &buffer)?;
    let io = Io::read(&handle, &buffer, 0..LEN, 0);
    counted(PAGES, || transfer(&mut engines, Engine::Fixed, io))
}

/// A splice from an O_DIRECT file: the kernel's own pages (a BVEC), nothing to pin.
///
/// # Errors
/// As [`direct_read`].
pub fn direct_splice(folder: &Path) -> anyhow::Result<Seen> {
    const PART: usize = 64 * PAGE;
    let (_file, handle) = direct(folder)?;
    let mut pipe = Pipe::new()?;
    let splice = || -> anyhow::Result<()> {
        for at in (0..LEN).step_by(PART) {
            let count = pipe.fill(&handle, Some(at as i64), PART).context("splice")?;
            anyhow::ensure!(count > 0, "splice returned nothing");
            pipe.drain()?;
        }
        Ok(())
    };
    counted(PAGES, splice)
}

fn register(engines: &mut Engines, buffer: &Buffer) -> anyhow::Result<()> {
    let registered = engines.register(buffer.ptr(), buffer.len())?;
    registered.map_err(|errno| not_run(format!("io_uring refuses the buffer: {errno}")))
}

/// Registering a buffer with io_uring: FOLL_PIN|FOLL_LONGTERM for as long as it is registered.
///
/// # Errors
/// NOTRUN without io_uring.
pub fn registration() -> anyhow::Result<Seen> {
    let (buffer, mut engines) = (Buffer::new(Memory::Anon, LEN)?, Engines::default());
    counted(PAGES, || {
        register(&mut engines, &buffer)?;
        engines.unregister()
    })
}

/// process_vm_readv(2) from our own memory: the remote side is pinned while it is copied.
///
/// # Errors
/// NOTRUN where it is refused.
pub fn process_vm() -> anyhow::Result<Seen> {
    let buffer = Buffer::new(Memory::Anon, LEN)?;
    remote_read(&buffer)
}

/// As [`process_vm`] from memory that nobody stored to: the zero page, many times. Not counted since 6.5.
///
/// # Errors
/// NOTRUN where it is refused.
pub fn process_vm_zero() -> anyhow::Result<Seen> {
    let buffer = Buffer::new(Memory::Zero, LEN)?;
    remote_read(&buffer)
}

fn remote_read(buffer: &Buffer) -> anyhow::Result<Seen> {
    let mut copy = vec![0; LEN];
    let remote = [RemoteIoVec { base: buffer.ptr() as usize, len: LEN }];
    counted(PAGES, || {
        let local = &mut [IoSliceMut::new(&mut copy)];
        let count = process_vm_readv(nix::unistd::Pid::this(), local, &remote);
        let count = count.map_err(|errno| not_run(format!("process_vm_readv: {errno}")))?;
        anyhow::ensure!(count == LEN, "process_vm_readv returned {count}");
        Ok(())
    })
}

/// An O_DIRECT write from memory that nobody stored to: are those pages (all the zero page) pinned?
///
/// # Errors
/// As [`direct_read`].
pub fn zero_page_write(folder: &Path) -> anyhow::Result<Seen> {
    let (file, handle) = direct(folder)?;
    let (buffer, mut engines) = (Buffer::new(Memory::Zero, LEN)?, Engines::default());
    let io = Io::write(&handle, &buffer, 0..LEN, 0);
    let mut seen = counted(PAGES, || transfer(&mut engines, Engine::Pread, io))?;
    let mut bytes = vec![1; LEN];
    file.as_file().read_exact_at(&mut bytes, 0)?;
    let zero = bytes.iter().all(|&byte| byte == 0);
    seen.evidence += if zero { "; the file got zeroes" } else { "; THE FILE GOT OTHER BYTES" };
    Ok(seen)
}

/// The same untouched page twice in one pwritev(2), which the first version of the zero page change broke on
/// UDF.
///
/// # Errors
/// As [`direct_read`].
pub fn zero_page_twice(folder: &Path) -> anyhow::Result<Seen> {
    let (file, handle) = direct(folder)?;
    let buffer = Buffer::new(Memory::Zero, PAGE)?;
    for _ in 0..2 {
        let count = sys::write_twice(&handle, buffer.ptr(), PAGE).context("pwritev")?;
        anyhow::ensure!(count == 2 * PAGE, "pwritev of two pages returned {count}");
    }
    let mut bytes = vec![1; 2 * PAGE];
    file.as_file().read_exact_at(&mut bytes, 0)?;
    let zero = bytes.iter().all(|&byte| byte == 0);
    Ok(Seen::new(if zero { "zeroes" } else { "other bytes" }, "two pwritev of one page twice"))
}

/// Registering memory that nobody stored to: a long pin for writing must not get the zero page.
///
/// # Errors
/// NOTRUN without io_uring or page frames.
pub fn zero_page_registration() -> anyhow::Result<Seen> {
    let (buffer, mut engines) = (Buffer::new(Memory::Zero, PAGE)?, Engines::default());
    let address = buffer.ptr() as usize;
    let own = Pagemap::of("self")?;
    let frame = |when: &str| {
        let frame = own.frame(address)?;
        frame.ok_or_else(|| not_run(format!("no page frame is shown {when}")))
    };
    buffer.load(0);
    let was_zero = pagemap::is_zero_page(frame("after a load")?)?;
    register(&mut engines, &buffer)?;
    let is_zero = pagemap::is_zero_page(frame("after registration")?)?;
    let evidence = format!("zero page before: {was_zero}, after: {is_zero}");
    Ok(Seen::new(if is_zero { "the zero page" } else { "pages of its own" }, evidence))
}

/// vmsplice(2): plain references, for as long as the pipe holds the pages.
///
/// # Errors
/// No pipe.
pub fn vmsplice() -> anyhow::Result<Seen> {
    const PART: usize = 64 * PAGE;
    let buffer = Buffer::new(Memory::Anon, PART)?;
    let mut pipe = Pipe::new()?;
    counted(PAGES, || {
        for _ in 0..LEN / PART {
            pipe.gift(buffer.ptr(), PART).context("vmsplice")?;
            pipe.drain()?;
        }
        Ok(())
    })
}
