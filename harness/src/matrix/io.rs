//! Ways of I/O in the matrix, and how each is started and ended.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;

use super::Cell;
use super::action::Action;
use super::buffer::Held;
use crate::fixture::{Aside, Fixture, Open, Stamped};
use crate::kit::engine::{Done, Engine, Flight, Io, Way};
use crate::kit::fork::{Child, Task};
use crate::kit::mapping::Mapping;
use crate::kit::memory::PAGE;
use crate::kit::pipe::Pipe;
use crate::kit::sys;

/// A call that carries an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// One that takes user memory.
    Engine(Engine),
    /// splice(2) into or out of a pipe.
    Splice,
    /// sendfile(2) into or out of a file of another filesystem.
    Sendfile,
    /// copy_file_range(2) into another file of the target.
    Copy,
    /// A load or store through a mapping of the file.
    Fault,
}

impl Call {
    const ALL: [Call; 14] = [
        Call::Engine(Engine::Read),
        Call::Engine(Engine::Readv),
        Call::Engine(Engine::Nowait),
        Call::Engine(Engine::Hipri),
        Call::Engine(Engine::Dontcache),
        Call::Engine(Engine::Dsync),
        Call::Engine(Engine::Append),
        Call::Engine(Engine::Aio),
        Call::Engine(Engine::Uring),
        Call::Engine(Engine::Fixed),
        Call::Splice,
        Call::Sendfile,
        Call::Copy,
        Call::Fault,
    ];

    fn name(self) -> &'static str {
        match self {
            Call::Engine(engine) => engine.name(),
            Call::Splice => "splice",
            Call::Sendfile => "sendfile",
            Call::Copy => "copy",
            Call::Fault => "fault",
        }
    }

    /// Whether it is one of the calls that hold user memory while a direct I/O is in flight.
    pub fn engine(self) -> Option<Engine> {
        match self {
            Call::Engine(engine) => Some(engine),
            _ => None,
        }
    }

    /// Whether it is preadv2(2) or pwritev2(2) with a flag.
    pub fn is_flagged(self) -> bool {
        self.engine().is_some_and(|engine| engine.flags().is_some())
    }
}

/// A way of I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// From the file or into it.
    pub way: Way,
    /// By which call.
    pub call: Call,
    /// How the file is opened.
    pub open: Open,
}

impl Op {
    /// All of them.
    pub fn all() -> Vec<Op> {
        let mut all = Vec::new();
        for way in [Way::Read, Way::Write] {
            for call in Call::ALL {
                all.extend([Open::Direct, Open::Buffered].map(|open| Op { way, call, open }));
            }
        }
        all
    }

    /// E.g. `read.uring.direct`; a call's name is that of its reading form.
    pub fn name(&self) -> String {
        let open = if self.open == Open::Direct { "direct" } else { "cached" };
        [self.way.name(), self.call.name(), open].join(".")
    }

    /// Whether it goes past the page cache.
    pub fn is_direct(&self) -> bool {
        self.open == Open::Direct
    }

    /// Whether the pages themselves are held while the I/O is in flight; otherwise data is copied to or from whatever
    /// is mapped at the address then.
    pub fn holds_pages(&self) -> bool {
        self.is_direct() || self.call == Call::Engine(Engine::Fixed)
    }

    /// Whether the call returns when the data is in the page cache, so that only the write-back is in flight.
    pub fn is_written_back(&self) -> bool {
        let waits = self.call == Call::Engine(Engine::Dsync);
        self.way == Way::Write && !self.is_direct() && !waits
    }

    /// Whether the inode is free while the I/O is in flight: a truncate need not wait for it.
    pub fn is_async(&self) -> bool {
        self.call.engine().is_some_and(Engine::is_async)
    }
}

/// Everything that an I/O needs.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What is played.
    pub cell: &'a Cell,
    /// The file.
    pub file: &'a Stamped,
    /// It, open as the way of I/O wants it. Nobody closes it meanwhile: close(2) waits for write-back.
    pub handle: &'a Arc<File>,
    /// The memory.
    pub held: Option<&'a Held>,
    /// Where in the file.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
    /// What a write without user memory writes.
    pub source: &'a [u8],
}

/// What an I/O came to: its count, and the bytes that it brought, where they are not in user memory.
pub type Outcome = (Done, Vec<u8>);

/// An outcome, with the mapping that a thread faulted in for it. To unmap a file waits for its write-back, and everything
/// that maps or unmaps waits for that: it must not happen while that is parked, nor before the thread is done.
type Brought = (anyhow::Result<Outcome>, Option<Mapping>);

/// An I/O in flight.
#[derive(Debug)]
pub enum Started {
    /// In an engine.
    Flight(Flight),
    /// In a thread.
    Aside(Aside<Brought>),
    /// In a process of its own.
    Child(Child),
}

impl Parts<'_> {
    fn io(&self) -> anyhow::Result<Io> {
        let held = self.held.context("a call with memory")?;
        let (fd, way, memory) = (self.handle.as_raw_fd(), self.cell.op.way, held.buffer.ptr());
        Ok(Io { fd, way, memory, len: self.len, offset: self.offset })
    }

    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, fixture: &mut Fixture<'_>) -> anyhow::Result<Started> {
        let action = self.cell.action;
        let call = match self.cell.op.call {
            Call::Engine(engine) if action.ends_process() => {
                let (io, exec) = (self.io()?, action == Action::Exec);
                return fixture.fork(Task::Transfer { engine, io, exec }).map(Started::Child);
            }
            Call::Engine(engine) => return fixture.start(engine, self.io()?).map(Started::Flight),
            call => call,
        };
        let (handle, len) = (Arc::clone(self.handle), self.len);
        let source = self.source.to_vec();
        let what = self.cell.op.name();
        let aside = match (call, self.cell.op.way) {
            (Call::Splice, Way::Read) => {
                fixture.aside(&what, move || (splice_out(&handle, len), None))
            }
            (Call::Splice, Way::Write) => {
                fixture.aside(&what, move || (splice_in(&handle, &source), None))
            }
            (Call::Sendfile, Way::Read) => {
                fixture.aside(&what, move || (send_out(&handle, len), None))
            }
            (Call::Sendfile, Way::Write) => {
                fixture.aside(&what, move || (send_in(&handle, &source), None))
            }
            (Call::Copy, _) => {
                let path = fixture.name().path;
                let to = File::options().create_new(true).read(true).write(true).open(path)?;
                fixture.aside(&what, move || (copy(&handle, &to, len), None))
            }
            (_, way) => {
                let mapping = Mapping::shared(&handle, len)?;
                fixture.aside(&what, move || {
                    let outcome = match way {
                        Way::Read => load(&mapping, len),
                        Way::Write => store(&mapping, &source),
                    };
                    (outcome, Some(mapping))
                })
            }
        };
        Ok(Started::Aside(aside?))
    }
}

impl Started {
    /// Whether it is over already. A process of its own never is.
    ///
    /// # Errors
    /// The engine is broken.
    pub fn is_over(&mut self, fixture: &mut Fixture<'_>) -> anyhow::Result<bool> {
        match self {
            Started::Flight(flight) => fixture.engines().is_done(flight),
            Started::Aside(aside) => aside.is_over(Duration::ZERO),
            Started::Child(_) => Ok(false),
        }
    }

    /// Waits for its end. A process of its own is no part of this.
    ///
    /// # Errors
    /// HANG; or a call failed that must not.
    pub fn finish(self, fixture: &mut Fixture<'_>) -> anyhow::Result<Outcome> {
        match self {
            Started::Flight(flight) => Ok((fixture.finish(flight)?, Vec::new())),
            Started::Aside(aside) => aside.join()?.0,
            Started::Child(_) => anyhow::bail!("a process has no outcome"),
        }
    }
}

fn splice_out(file: &File, len: usize) -> anyhow::Result<Outcome> {
    let mut pipe = Pipe::new()?;
    let done = pipe.fill_all(file, len);
    Ok((done, pipe.drain()?))
}

fn splice_in(file: &File, source: &[u8]) -> anyhow::Result<Outcome> {
    let pipe = Pipe::new()?;
    pipe.put(source)?;
    let done = sys::repeat(source.len(), |at| pipe.pour(file, at as i64, source.len() - at));
    Ok((done, Vec::new()))
}

fn send_out(file: &File, len: usize) -> anyhow::Result<Outcome> {
    let to = tempfile::tempfile()?;
    let done = sys::repeat(len, |at| send(&to, file, at, len - at));
    Ok((done, sys::contents(&to)?))
}

fn send_in(file: &File, source: &[u8]) -> anyhow::Result<Outcome> {
    let mut from = tempfile::tempfile()?;
    from.write_all(source)?;
    let done = sys::repeat(source.len(), |at| send(file, &from, at, source.len() - at));
    Ok((done, Vec::new()))
}

fn send(to: &File, from: &File, at: usize, len: usize) -> Done {
    let mut offset = at as i64;
    nix::sys::sendfile::sendfile64(to.as_fd(), from.as_fd(), Some(&mut offset), len)
}

fn copy(from: &File, to: &File, len: usize) -> anyhow::Result<Outcome> {
    let done = sys::repeat(len, |at| {
        let mut place = at as i64;
        nix::fcntl::copy_file_range(from, Some(&mut place), to, None, len - at)
    });
    // After an abort there is nothing to read; a count without its bytes is a fault.
    Ok((done, sys::contents(to).unwrap_or_default()))
}

/// Loads from a mapping page by page, by write(2): that answers EFAULT where a load would raise SIGBUS.
fn load(mapping: &Mapping, len: usize) -> anyhow::Result<Outcome> {
    let (out, into) = nix::unistd::pipe()?;
    let (out, mut bytes) = (File::from(out), Vec::new());
    let done = sys::repeat(len, |at| {
        let count = sys::write_from(&into, mapping.address(at), PAGE.min(len - at))?;
        let mut page = vec![0; count];
        std::io::Read::read_exact(&mut &out, &mut page).map_err(|_| Errno::EIO)?;
        bytes.extend(page);
        Ok(count)
    });
    Ok((done, bytes))
}

/// Stores to a mapping, by read(2) from a file for the same reason.
fn store(mapping: &Mapping, source: &[u8]) -> anyhow::Result<Outcome> {
    let from = tempfile::tempfile()?;
    from.write_all_at(source, 0)?;
    let done =
        sys::repeat(source.len(), |at| mapping.receive_at(at, source.len() - at, &from, at as u64));
    Ok((done, Vec::new()))
}
