//! Readers: one way each to get a part of the file, always with bounded waits and into memory that starts as poison.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::lane::Way;
use super::oracle::PART;
use crate::kit::bounds::bound;
use crate::kit::engine::{Engine, Engines, Io, here};
use crate::kit::mapping::Mapping;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::pipe::Pipe;
use crate::kit::stamp::POISON;
use crate::kit::sys;

/// A pipe by its two ends.
pub(super) type Ends = (File, OwnedFd);

/// See the [module](self).
#[derive(Debug)]
pub struct Reader {
    way: Way,
    file: File,
    engines: Engines,
    buffer: Buffer,
    mapping: Option<Mapping>,
    ends: Option<Ends>,
}

/// What a read came to.
pub type Got = Result<Vec<u8>, Errno>;

impl Reader {
    /// A reader of an open file of that many bytes.
    ///
    /// # Errors
    /// The mapping, a pipe or memory is refused.
    pub fn new(way: Way, file: File, len: usize) -> anyhow::Result<Reader> {
        let mapping = (way == Way::Mapped).then(|| Mapping::shared(&file, len)).transpose()?;
        let buffer = Buffer::new(Memory::Anon, PART)?;
        Ok(Reader { way, file, engines: Engines::default(), buffer, mapping, ends: None })
    }

    /// The memory that a forked child may watch.
    pub fn spot(&self) -> usize {
        self.buffer.ptr() as usize
    }

    /// Reads the first `len` bytes of a part.
    ///
    /// # Errors
    /// It did not end, or cannot be done here; what the call itself said is inside.
    pub fn read(&mut self, part: usize, len: usize) -> anyhow::Result<Got> {
        let at = (part * PART) as u64;
        match self.way {
            Way::Direct => {
                self.buffer.fill(0, PART, POISON);
                Ok(here(&self.io(len, at)).map(|count| self.buffer.bytes(0, count)))
            }
            Way::Uring => self.queued(Engine::Uring, len, at),
            Way::Aio => self.queued(Engine::Aio, len, at),
            Way::Mapped => self.load(part, len),
            Way::Splice | Way::SpliceDirect => {
                let mut pipe = Pipe::new()?;
                match pipe.fill(&self.file, Some(at as i64), len) {
                    Ok(_) => Ok(Ok(pipe.drain()?)),
                    Err(errno) => Ok(Err(errno)),
                }
            }
            _ => {
                let mut bytes = vec![POISON; len];
                Ok(match self.file.read_at(&mut bytes, at) {
                    Ok(count) => Ok(bytes[..count].to_vec()),
                    Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(0))),
                })
            }
        }
    }

    fn io(&self, len: usize, at: u64) -> Io {
        Io::read(&self.file, &self.buffer, 0..len, at)
    }

    /// A read with a store to another place of its page while it is in flight: what fork makes of such a page is
    /// the famous race.
    fn queued(&mut self, engine: Engine, len: usize, at: u64) -> anyhow::Result<Got> {
        self.buffer.fill(0, PART, POISON);
        let flight = self.engines.start(engine, self.io(len, at))?;
        if len < PART {
            self.buffer.store(PART - 1, 1);
        }
        let done = self.engines.finish(flight, bound())?;
        Ok(done.map(|count| self.buffer.bytes(0, count)))
    }

    /// Loads go through a pipe, where a page that is gone is EFAULT and not SIGBUS.
    fn load(&mut self, part: usize, len: usize) -> anyhow::Result<Got> {
        let mapping = self.mapping.as_ref().context("no mapping")?;
        let (mut out, into) = match self.ends.take() {
            Some(ends) => ends,
            None => ends()?,
        };
        let count = match sys::write_from(&into, mapping.address(part * PART), len) {
            Ok(count) => count,
            Err(Errno::EFAULT) => 0,
            Err(errno) => return Ok(Err(errno)),
        };
        let mut bytes = vec![POISON; count];
        out.read_exact(&mut bytes).context("read a pipe")?;
        self.ends = Some((out, into));
        Ok(Ok(bytes))
    }
}

/// A pipe of the usual size.
pub(super) fn ends() -> anyhow::Result<Ends> {
    let (out, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("pipe")?;
    Ok((File::from(out), into))
}
