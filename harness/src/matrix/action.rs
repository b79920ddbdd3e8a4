//! Racing actions of the matrix.

use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::mman::{MmapAdvise, ProtFlags};

use super::buffer::{Held, Kind, SPACE};
use super::{Cell, oracle};
use crate::fixture::{Aside, Fixture, Stamped};
use crate::kit::bounds::bound;
use crate::kit::engine::{Io, Way, once};
use crate::kit::event::Actor;
use crate::kit::fork::{Child, Task, sharer};
use crate::kit::ksm;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::stamp::CANARY;
use crate::kit::verdict::not_run;

/// What happens while the request is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// fork, a store to the last page; the child lives on.
    Fork,
    /// The same, and the child ends first.
    ForkDead,
    /// A child that shares the memory, by CLONE_VM and CLONE_VFORK; and a store.
    Vfork,
    /// The file is truncated to nothing.
    Cut,
    /// The file is truncated to nothing and then to its size again.
    CutGrow,
    /// The file is extended.
    Grow,
    /// The first half of the transferred range is punched out.
    Punch,
    /// It is zeroed.
    Zero,
    /// The file is unlinked and others are made.
    Unlink,
    /// fsync(2) through another descriptor.
    Fsync,
    /// Another direct write to the first half of the transferred range.
    Overwrite,
    /// io_uring is told to cancel it (IORING_OP_ASYNC_CANCEL); the memory is filled if it was.
    Cancel,
    /// The memory is replaced by fresh pages, which are filled.
    Munmap,
    /// MADV_DONTNEED; private pages are filled again.
    Dontneed,
    /// The pages move to another address; fresh ones at the old are filled.
    Mremap,
    /// mprotect to read-only and back, and a store to the last page.
    Mprotect,
    /// The memory itself is stored to.
    Store,
    /// MADV_PAGEOUT, a load, and a store to the last page.
    Pageout,
    /// The kernel compacts all memory; then a store to the last page.
    Compact,
    /// The pages move to another address by UFFDIO_MOVE (6.8), which leaves pinned ones; fresh ones at the old are filled.
    Move,
    /// The kernel merges equal pages (MADV_MERGEABLE); then a store to the last page.
    Merge,
    /// The descriptor is closed.
    Close,
    /// The process exits.
    Exit,
    /// It is killed.
    Kill,
    /// It executes another program.
    Exec,
    /// The FUSE connection is aborted.
    Abort,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 26] = [
        Action::Fork,
        Action::ForkDead,
        Action::Vfork,
        Action::Cut,
        Action::CutGrow,
        Action::Grow,
        Action::Punch,
        Action::Zero,
        Action::Unlink,
        Action::Fsync,
        Action::Overwrite,
        Action::Cancel,
        Action::Munmap,
        Action::Dontneed,
        Action::Mremap,
        Action::Mprotect,
        Action::Store,
        Action::Pageout,
        Action::Compact,
        Action::Move,
        Action::Merge,
        Action::Close,
        Action::Exit,
        Action::Kill,
        Action::Exec,
        Action::Abort,
    ];

    /// The name in variants.
    pub fn name(self) -> &'static str {
        match self {
            Action::Fork => "fork",
            Action::ForkDead => "fork-dead",
            Action::Vfork => "vfork",
            Action::Cut => "cut",
            Action::CutGrow => "cut-grow",
            Action::Grow => "grow",
            Action::Punch => "punch",
            Action::Zero => "zero",
            Action::Unlink => "unlink",
            Action::Fsync => "fsync",
            Action::Overwrite => "overwrite",
            Action::Cancel => "cancel",
            Action::Munmap => "munmap",
            Action::Dontneed => "dontneed",
            Action::Mremap => "mremap",
            Action::Mprotect => "mprotect",
            Action::Store => "store",
            Action::Pageout => "pageout",
            Action::Compact => "compact",
            Action::Move => "move",
            Action::Merge => "merge",
            Action::Close => "close",
            Action::Exit => "exit",
            Action::Kill => "kill",
            Action::Exec => "exec",
            Action::Abort => "abort",
        }
    }

    /// Whether it changes the file, or what is stored of it.
    pub fn is_on_file(self) -> bool {
        use Action::*;
        matches!(self, Cut | CutGrow | Grow | Punch | Zero | Unlink | Fsync | Overwrite)
    }

    /// Whether it changes the memory, or who has it.
    pub fn is_on_memory(self) -> bool {
        use Action::*;
        let forks = matches!(self, Fork | ForkDead | Vfork);
        let goes = matches!(self, Munmap | Dontneed | Mremap | Move);
        forks || goes || matches!(self, Mprotect | Store | Pageout | Compact | Merge)
    }

    /// Whether it ends the process that has the I/O in flight.
    pub fn ends_process(self) -> bool {
        matches!(self, Action::Exit | Action::Kill | Action::Exec)
    }

    /// Whether it stores to [`STORE_AT`].
    pub fn stores(self) -> bool {
        use Action::*;
        matches!(self, Fork | ForkDead | Vfork | Mprotect | Store | Pageout | Compact | Merge)
    }
}

/// A byte of the last page, behind an I/O that leaves half of it.
pub const STORE_AT: usize = SPACE - 96;
/// A byte inside every I/O.
pub const INSIDE_AT: usize = 100;
/// What is stored there.
pub const STORED: u8 = 1;
/// Bytes for the stack of a child that has only ours.
const STACK: usize = 64 << 10;
/// How long a request of the racer's own may take.
const OWN: Duration = Duration::from_millis(100);

/// What an action leaves to be looked at and ended.
#[derive(Debug, Default)]
pub struct After {
    /// A forked child that knows whether its memory changed.
    pub child: Option<Child>,
    /// Pages that were moved away.
    pub moved: Option<Buffer>,
    /// Whether fresh pages at the old address hold the canary.
    pub canary: bool,
    /// A change of the file that may have to wait.
    pub change: Option<Aside<(nix::Result<()>, File)>>,
    /// Files that may have got the blocks.
    pub others: Vec<Stamped>,
    /// The end of the descriptor, which may have to wait.
    pub close: Option<Aside<()>>,
    /// The write-back of a mapped file that is the memory.
    pub clean: Option<Aside<nix::Result<()>>>,
}

/// Does what is done to the memory.
///
/// # Errors
/// NOTRUN where this machine or kernel cannot.
pub fn on_memory(
    fixture: &mut Fixture<'_>,
    cell: &Cell,
    held: &mut Held,
    len: usize,
) -> anyhow::Result<After> {
    let mut after = After::default();
    let action = cell.action;
    fixture.event(Actor::Racer, action.name());
    match action {
        Action::Fork | Action::ForkDead => {
            let (start, byte) = (held.buffer.ptr(), oracle::untouched(cell.kind));
            let is_read = cell.op.way == Way::Read && cell.kind.is_private();
            let len = if is_read { len } else { 0 };
            let child = fixture.fork(Task::Differs { start, len, byte })?;
            if action == Action::ForkDead {
                child.finish(bound())?;
            } else {
                after.child = Some(child);
            }
        }
        Action::Vfork => {
            let stack = Buffer::new(Memory::Anon, STACK)?;
            sharer(&stack, true)?.finish(bound())?;
        }
        Action::Munmap => {
            held.buffer.remap()?;
            after.canary = true;
        }
        Action::Dontneed => {
            advise(&held.buffer, MmapAdvise::MADV_DONTNEED)?;
            after.canary = cell.kind.is_private();
        }
        Action::Mremap => {
            after.moved = Some(held.buffer.move_away().map_err(refused)?);
            after.canary = true;
        }
        Action::Mprotect => {
            held.buffer.protect(ProtFlags::PROT_READ)?;
            held.buffer.protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        }
        Action::Pageout => {
            advise(&held.buffer, MmapAdvise::MADV_PAGEOUT)?;
            held.buffer.load(STORE_AT);
        }
        Action::Compact => fixture.compact()?,
        Action::Move => {
            after.moved = held.buffer.move_pages_away()?;
            after.canary = after.moved.is_some();
            if !after.canary {
                fixture.note("UFFDIO_MOVE: EBUSY, the pages are pinned");
            }
        }
        Action::Merge => {
            advise(&held.buffer, MmapAdvise::MADV_MERGEABLE)?;
            fixture.note(format!("ksmd merged {} pages of ours", ksm::merge(&held.buffer)?));
        }
        _ => {}
    }
    if after.canary {
        held.buffer.fill(0, SPACE, CANARY);
    }
    if action.stores() && cell.kind != Kind::ReadOnly {
        held.buffer.store(STORE_AT, STORED);
    }
    if action == Action::Store && cell.op.way == Way::Read {
        held.buffer.store(INSIDE_AT, STORED);
    }
    Ok(after)
}

fn advise(buffer: &Buffer, advice: MmapAdvise) -> anyhow::Result<()> {
    buffer.advise(advice).map_err(refused)
}

/// A write of the first half of a file, from memory that is aligned for direct I/O.
fn overwrite(
    file: &Stamped,
    to: &File,
) -> anyhow::Result<impl FnOnce() -> nix::Result<()> + Send + use<>> {
    let memory = Buffer::new(Memory::Anon, oracle::HALF)?;
    memory.write(0, &file.content(oracle::OVER, 0, oracle::HALF));
    let write = once(Io::write(to, &memory, 0..oracle::HALF, 0));
    Ok(move || {
        let done = write();
        drop(memory);
        match done {
            Ok(oracle::HALF) => Ok(()),
            Ok(_) => Err(Errno::EIO),
            Err(errno) => Err(errno),
        }
    })
}

/// Not every kernel has it for every kind of memory.
fn refused(error: anyhow::Error) -> anyhow::Error {
    not_run(format!("this kernel refuses it for this memory: {error:#}"))
}

/// Does what is done to the file, through another descriptor, and returns when it is done or waits.
///
/// # Errors
/// It neither ends nor waits; or the files that are to take its blocks cannot be made.
pub fn on_file(
    fixture: &mut Fixture<'_>,
    cell: &Cell,
    file: &Stamped,
    other: File,
) -> anyhow::Result<After> {
    let (action, len) = (cell.action, file.len as i64);
    let path = file.path.clone();
    let mut over = match action {
        Action::Overwrite => Some(overwrite(file, &other)?),
        _ => None,
    };
    let call = move || {
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let half = oracle::HALF as i64;
        let done = match action {
            Action::Cut => nix::unistd::ftruncate(other.as_fd(), 0),
            Action::CutGrow => nix::unistd::ftruncate(other.as_fd(), 0)
                .and_then(|()| nix::unistd::ftruncate(other.as_fd(), len)),
            Action::Grow => nix::unistd::ftruncate(other.as_fd(), len + oracle::GROWTH as i64),
            Action::Punch => {
                fallocate(other.as_fd(), FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep, 0, half)
            }
            Action::Zero => {
                fallocate(other.as_fd(), FallocateFlags::FALLOC_FL_ZERO_RANGE | keep, 0, half)
            }
            Action::Fsync => nix::unistd::fsync(&other),
            Action::Overwrite => over.take().map_or(Ok(()), |write| write()),
            _ => nix::unistd::unlink(&path),
        };
        // Closed later: before 6.18 a FUSE file's close waits for a write in flight.
        (done, other)
    };
    let before = std::fs::metadata(&file.path)?;
    let mut change = fixture.aside(action.name(), call)?;
    let mut after = After::default();
    let mut is_over = change.settle()?;
    if matches!(action, Action::Fsync | Action::Overwrite) && !is_over {
        // What waited for its own request looked like one that waits for what is parked.
        is_over = change.is_over(OWN)?;
    }
    if action == Action::Unlink && is_over {
        for _ in 0..2 {
            after.others.push(fixture.quick_file(SPACE as u64)?);
        }
    } else if action == Action::Unlink {
        // The files would come too late.
        fixture.serialised(&change);
    } else if !is_over && !has_begun(fixture, cell, file, before)? {
        fixture.serialised(&change);
    }
    after.change = Some(change);
    Ok(after)
}

/// Whether a change that is not over took effect already: stat(2) tells of it, or the server of the filesystem did it.
fn has_begun(
    fixture: &mut Fixture<'_>,
    cell: &Cell,
    file: &Stamped,
    before: Metadata,
) -> anyhow::Result<bool> {
    if std::fs::metadata(&file.path)?.len() != before.len() {
        return Ok(true);
    }
    if !fixture.mounted().target().is_fuse() {
        return Ok(false);
    }
    let op = match cell.action {
        Action::Punch | Action::Zero => "fallocate",
        Action::Fsync => "fsync",
        Action::Overwrite => "write",
        _ => "setattr",
    };
    let done = fixture.requests(op, before.ino())?;
    let is_it = |len| cell.action != Action::Overwrite || len == oracle::HALF as u64;
    Ok(done.iter().any(|record| record.outcome.is_some() && is_it(record.len)))
}

impl After {
    /// Waits for what was done aside.
    ///
    /// # Errors
    /// HANG, or it failed; NOTRUN where the target does not have the change of the file.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        self.close.take().map(Aside::join).transpose()?;
        if let Some(clean) = self.clean.take() {
            clean.join()?.context("write back what is mapped")?;
        }
        match self.change.take().map(Aside::join).transpose()? {
            Some((Err(Errno::EOPNOTSUPP), _)) => {
                Err(not_run("the target does not have this change"))
            }
            Some((Err(errno), _)) => Err(errno).context("the change of the file"),
            _ => Ok(()),
        }
    }
}
