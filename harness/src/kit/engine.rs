//! Engines: ways to have one read or write in flight while the test goes on.
//!
//! `pread` and its relatives are system calls in a thread of their own, `aio` is libaio's io_submit, `uring` is
//! IORING_OP_READ/WRITE, and `fixed` is READ_FIXED/WRITE_FIXED on a registered (pinned) buffer.

mod aio;
mod thread;
mod uring;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

pub use thread::{here, once};

use crate::kit::memlock;
use crate::kit::memory::Buffer;
use crate::kit::verdict::{Stop, not_run};

/// Which system calls carry an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// pread(2) or pwrite(2) in a thread.
    Pread,
    /// preadv(2) or pwritev(2) with two segments, in a thread.
    Preadv,
    /// lseek(2) and read(2) or write(2), in a thread.
    Read,
    /// lseek(2) and readv(2) or writev(2) with two segments, in a thread.
    Readv,
    /// preadv2(2) or pwritev2(2) with RWF_NOWAIT, in a thread.
    Nowait,
    /// The same with RWF_HIPRI.
    Hipri,
    /// The same with RWF_DONTCACHE (6.14).
    Dontcache,
    /// The same with RWF_DSYNC.
    Dsync,
    /// The same with RWF_APPEND.
    Append,
    /// io_submit(2).
    Aio,
    /// io_uring, plain.
    Uring,
    /// io_uring with a registered buffer.
    Fixed,
}

impl Engine {
    /// All of them.
    pub const ALL: [Engine; 12] = [
        Engine::Pread,
        Engine::Preadv,
        Engine::Read,
        Engine::Readv,
        Engine::Nowait,
        Engine::Hipri,
        Engine::Dontcache,
        Engine::Dsync,
        Engine::Append,
        Engine::Aio,
        Engine::Uring,
        Engine::Fixed,
    ];

    /// The name in variants.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Pread => "pread",
            Engine::Preadv => "preadv",
            Engine::Read => "read",
            Engine::Readv => "readv",
            Engine::Nowait => "nowait",
            Engine::Hipri => "hipri",
            Engine::Dontcache => "dontcache",
            Engine::Dsync => "dsync",
            Engine::Append => "append",
            Engine::Aio => "aio",
            Engine::Uring => "uring",
            Engine::Fixed => "fixed",
        }
    }

    /// Flags for preadv2(2) and pwritev2(2), where they are what the engine is about.
    pub fn flags(self) -> Option<i32> {
        /// `RWF_DONTCACHE` of include/uapi/linux/fs.h.
        const DONTCACHE: i32 = 0x80;
        Some(match self {
            Engine::Nowait => libc::RWF_NOWAIT,
            Engine::Hipri => libc::RWF_HIPRI,
            Engine::Dontcache => DONTCACHE,
            Engine::Dsync => libc::RWF_DSYNC,
            Engine::Append => libc::RWF_APPEND,
            _ => return None,
        })
    }

    /// Whether the I/O goes on by itself when the system call that started it has returned.
    pub fn is_async(self) -> bool {
        matches!(self, Engine::Aio | Engine::Uring | Engine::Fixed)
    }
}

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// File to memory.
    Read,
    /// Memory to file.
    Write,
}

impl Way {
    /// The name in timelines.
    pub fn name(self) -> &'static str {
        match self {
            Way::Read => "read",
            Way::Write => "write",
        }
    }
}

/// One I/O. It is the case's duty to keep the memory mapped, or to unmap it on purpose.
#[derive(Clone, Copy, Debug)]
pub struct Io {
    /// The file, open until the I/O is over.
    pub fd: RawFd,
    /// Which way.
    pub way: Way,
    /// First byte of the memory.
    pub memory: *mut u8,
    /// Bytes.
    pub len: usize,
    /// Where in the file.
    pub offset: u64,
}

impl Io {
    /// A read into a range of a buffer.
    pub fn read(file: &File, buffer: &Buffer, range: Range<usize>, offset: u64) -> Io {
        Io::new(Way::Read, file, buffer, range, offset)
    }

    /// A write from a range of a buffer.
    pub fn write(file: &File, buffer: &Buffer, range: Range<usize>, offset: u64) -> Io {
        Io::new(Way::Write, file, buffer, range, offset)
    }

    fn new(way: Way, file: &File, buffer: &Buffer, range: Range<usize>, offset: u64) -> Io {
        let (fd, memory, len) = (file.as_raw_fd(), buffer.at(range.start), range.len());
        assert!(range.end <= buffer.len(), "{range:?} of a buffer of {}", buffer.len());
        Io { fd, way, memory, len, offset }
    }
}

/// What an I/O returned.
pub type Done = Result<usize, Errno>;

/// An I/O that was started.
#[derive(Debug)]
pub enum Flight {
    /// In a thread.
    Thread(thread::Call),
    /// In the AIO context, by its cookie.
    Aio(u64, thread::Call),
    /// In the ring, by its cookie.
    Uring(u64),
}

/// The engines of a process: one AIO context and one ring, made when they are first needed and kept, for
/// making them takes longer than a race.
#[derive(Debug, Default)]
pub struct Engines {
    aio: Option<aio::Context>,
    ring: Option<uring::Ring>,
    done: BTreeMap<u64, Done>,
    last_cookie: u64,
}

impl Engines {
    /// Starts an I/O and returns at once, also where io_submit(2) itself would block.
    ///
    /// # Errors
    /// NOTRUN where the kernel refuses the engine altogether; otherwise the submission failed.
    pub fn start(&mut self, engine: Engine, io: Io) -> anyhow::Result<Flight> {
        self.last_cookie += 1;
        let cookie = self.last_cookie;
        match engine {
            Engine::Aio => {
                if self.aio.is_none() {
                    self.aio = Some(aio::Context::new()?);
                }
                let context = self.aio.as_ref().expect("just made");
                Ok(Flight::Aio(cookie, context.submit(io, cookie)?))
            }
            Engine::Uring | Engine::Fixed => {
                self.ring()?.submit(io, cookie, engine == Engine::Fixed)?;
                Ok(Flight::Uring(cookie))
            }
            call => thread::start(io, call).map(Flight::Thread),
        }
    }

    /// Waits for the end of an I/O.
    ///
    /// # Errors
    /// [`Stop::Hang`] when it does not end within the bound.
    pub fn finish(&mut self, flight: Flight, bound: Duration) -> anyhow::Result<Done> {
        match flight {
            Flight::Thread(call) => call.finish(bound),
            Flight::Aio(cookie, submission) => {
                if let Err(errno) = submission.finish(bound)? {
                    return Ok(Err(errno));
                }
                let context = self.aio.as_ref().expect("the flight was started in it");
                collect(&mut self.done, cookie, bound, |done| context.reap(done, bound))
            }
            Flight::Uring(cookie) => {
                let ring = self.ring.as_mut().expect("the flight was started in it");
                collect(&mut self.done, cookie, bound, |done| ring.reap(done, bound))
            }
        }
    }

    /// Whether an I/O has ended already.
    ///
    /// # Errors
    /// The context is broken.
    pub fn is_done(&mut self, flight: &mut Flight) -> anyhow::Result<bool> {
        let cookie = match flight {
            Flight::Thread(call) => return Ok(call.is_over()),
            Flight::Aio(cookie, submission) => {
                // Refused, or taken: only then can it have ended.
                if !submission.is_over() {
                    return Ok(false);
                }
                if submission.failed() {
                    return Ok(true);
                }
                if let Some(context) = &self.aio {
                    context.reap(&mut self.done, Duration::ZERO)?;
                }
                cookie
            }
            Flight::Uring(cookie) => {
                if let Some(ring) = &mut self.ring {
                    ring.take(&mut self.done);
                }
                cookie
            }
        };
        Ok(self.done.contains_key(cookie))
    }

    /// Has the ring cancel an I/O of its own, and waits for what it says of that: ENOENT where it has none that it could
    /// take back, EALREADY where one that is being worked on was told.
    ///
    /// # Errors
    /// It is no I/O of the ring's; or [`Stop::Hang`].
    pub fn cancel(&mut self, flight: &Flight, bound: Duration) -> anyhow::Result<Done> {
        let &Flight::Uring(target) = flight else {
            anyhow::bail!("only io_uring takes an I/O back")
        };
        self.last_cookie += 1;
        let cookie = self.last_cookie;
        let ring = self.ring()?;
        ring.cancel(target, cookie)?;
        let ring = self.ring.as_mut().expect("just used");
        collect(&mut self.done, cookie, bound, |done| ring.reap(done, bound))
    }

    /// Registers memory as the ring's only fixed buffer.
    ///
    /// # Errors
    /// The inner error is what io_uring_register(2) said. The outer: there is no ring, or NOTRUN where this user
    /// may not lock that much.
    pub fn register(&mut self, memory: *mut u8, len: usize) -> anyhow::Result<Result<(), Errno>> {
        match (self.ring()?.register(memory, len), memlock::limit()) {
            (Err(Errno::ENOMEM), Some(limit)) => Err(not_run(limit)),
            (registered, _) => Ok(registered),
        }
    }

    /// The same of plain memory, which no kernel refuses: a pin for as long as it is registered.
    ///
    /// # Errors
    /// As [`Engines::register`], or it was refused.
    pub fn pin(&mut self, memory: *mut u8, len: usize) -> anyhow::Result<()> {
        let registered = self.register(memory, len)?;
        registered.map_err(|errno| anyhow::anyhow!("register the buffer: {errno}"))
    }

    /// Takes the registration back.
    ///
    /// # Errors
    /// Nothing was registered.
    pub fn unregister(&mut self) -> anyhow::Result<()> {
        self.ring()?.unregister()
    }

    /// The same as a call for another thread, for kernels that wait in it.
    ///
    /// # Errors
    /// Nothing was registered.
    pub fn unregister_elsewhere(
        &mut self,
    ) -> anyhow::Result<impl FnOnce() -> anyhow::Result<()> + use<>> {
        self.ring()?.unregister_elsewhere()
    }

    /// Closes the ring with all that it has registered or in flight.
    pub fn close_ring(&mut self) {
        self.ring = None;
    }

    fn ring(&mut self) -> anyhow::Result<&mut uring::Ring> {
        if self.ring.is_none() {
            self.ring = Some(uring::Ring::new()?);
        }
        Ok(self.ring.as_mut().expect("just made"))
    }
}

/// Starts an I/O by system calls only, in a context or ring of its own: for a forked child, which has none of its
/// parent's. It is over when the process is; an error shows as a request that does not come. What is not
/// [async](Engine::is_async) is over when this returns.
pub fn start_alone(engine: Engine, io: &Io) {
    match engine {
        Engine::Aio => aio::submit_alone(io),
        Engine::Uring => uring::submit_alone(io, false),
        Engine::Fixed => uring::submit_alone(io, true),
        call => drop(thread::call(io, call)),
    }
}

/// Reaps until `cookie` is done; what else is reaped waits for its own turn.
fn collect(
    finished: &mut BTreeMap<u64, Done>,
    cookie: u64,
    bound: Duration,
    mut reap: impl FnMut(&mut BTreeMap<u64, Done>) -> anyhow::Result<bool>,
) -> anyhow::Result<Done> {
    loop {
        if let Some(done) = finished.remove(&cookie) {
            return Ok(done);
        }
        if !reap(finished)? {
            return Err(Stop::Hang(format!("an I/O did not end in {bound:?}")).into());
        }
    }
}

#[cfg(test)]
#[path = "engine/tests.rs"]
mod tests;
