//! Writers: one way each to write a part of the file.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use anyhow::Context;
use nix::errno::Errno;

use super::lane::Way;
use super::oracle::PART;
use super::readers::ends;
use crate::kit::bounds::bound;
use crate::kit::engine::{Done, Engine, Engines, Io, here};
use crate::kit::mapping::Mapping;
use crate::kit::memory::{Buffer, Memory};
use crate::kit::pipe::Pipe;

/// See the [module](self).
#[derive(Debug)]
pub struct Writer {
    way: Way,
    file: File,
    engines: Engines,
    buffer: Buffer,
    mapping: Option<Mapping>,
}

impl Writer {
    /// A writer of an open file of that many bytes.
    ///
    /// # Errors
    /// The mapping or memory is refused.
    pub fn new(way: Way, file: File, len: usize) -> anyhow::Result<Writer> {
        let mapping = (way == Way::MappedWrite).then(|| Mapping::shared(&file, len)).transpose()?;
        let buffer = Buffer::new(Memory::Anon, PART)?;
        Ok(Writer { way, file, engines: Engines::default(), buffer, mapping })
    }

    /// Writes a part.
    ///
    /// # Errors
    /// It did not end, or cannot be done here; what the call itself said is inside.
    pub fn write(&mut self, part: usize, bytes: &[u8]) -> anyhow::Result<Done> {
        let at = (part * PART) as u64;
        match self.way {
            Way::BufferedWrite => Ok(self
                .file
                .write_at(bytes, at)
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))),
            Way::MappedWrite => self.store(part, bytes),
            _ => {
                self.buffer.write(0, bytes);
                let io = Io::write(&self.file, &self.buffer, 0..PART, at);
                match self.way {
                    Way::UringWrite => self.queued(Engine::Uring, io),
                    Way::AioWrite => self.queued(Engine::Aio, io),
                    Way::SpliceWrite => self.splice(at),
                    _ => Ok(here(&io)),
                }
            }
        }
    }

    fn queued(&mut self, engine: Engine, io: Io) -> anyhow::Result<Done> {
        let flight = self.engines.start(engine, io)?;
        self.engines.finish(flight, bound())
    }

    /// Stores go through a pipe, where a page that is gone is EFAULT and not SIGBUS.
    fn store(&mut self, part: usize, bytes: &[u8]) -> anyhow::Result<Done> {
        let mapping = self.mapping.as_ref().context("no mapping")?;
        let (out, into) = ends()?;
        anyhow::ensure!(nix::unistd::write(&into, bytes)? == PART, "a pipe takes a page");
        Ok(mapping.receive(part * PART, PART, &OwnedFd::from(out)))
    }

    fn splice(&mut self, at: u64) -> anyhow::Result<Done> {
        let pipe = Pipe::new()?;
        let held = pipe.gift(self.buffer.ptr(), PART).context("vmsplice")?;
        Ok(pipe.pour(&self.file, at as i64, held))
    }
}
