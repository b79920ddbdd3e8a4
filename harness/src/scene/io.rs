//! What a scene has in flight: I/O, and children.

use std::fs::File;

use nix::errno::Errno;

use super::{BOUND, Scene};
use crate::engine::{Done, Engine, Flight, Io};
use crate::event::Actor;
use crate::fork;
use crate::memory::{Buffer, Memory};
use crate::pagemap::{self, Held};

impl Scene<'_> {
    /// Starts an I/O.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self, engine: Engine, io: Io) -> anyhow::Result<Flight> {
        self.event(
            Actor::Test,
            format!("{} {} {}+{}", engine.name(), io.way.name(), io.offset, io.len),
        );
        self.engines.start(engine, io)
    }

    /// Waits for the end of an I/O.
    ///
    /// # Errors
    /// HANG when it does not end.
    pub fn finish(&mut self, flight: Flight) -> anyhow::Result<Done> {
        let done = self.engines.finish(flight, BOUND)?;
        let result = done.map_or_else(|errno| format!("{errno:?}"), |count| count.to_string());
        self.event(Actor::Test, format!("returned {result}"));
        Ok(done)
    }

    /// Starts an I/O and waits for its end, bounded.
    ///
    /// # Errors
    /// It cannot be started, or HANG.
    pub fn transfer(&mut self, engine: Engine, io: Io) -> anyhow::Result<Done> {
        let flight = self.start(engine, io)?;
        self.finish(flight)
    }

    /// Reads a range through an engine-less, bounded pread(2); the bytes that it returned.
    ///
    /// # Errors
    /// HANG.
    pub fn read(
        &mut self,
        file: &File,
        offset: u64,
        len: usize,
    ) -> anyhow::Result<Result<Vec<u8>, Errno>> {
        let buffer = Buffer::new(Memory::Anon, len)?;
        let flight = self.start(Engine::Pread, Io::read(file, &buffer, 0..len, offset))?;
        Ok(self.finish(flight)?.map(|count| buffer.bytes(0, count)))
    }

    /// Forks a child.
    ///
    /// # Errors
    /// fork(2) failed.
    pub fn fork(&mut self, task: fork::Task) -> anyhow::Result<fork::Child> {
        self.event(Actor::Racer, "fork");
        fork::child(task)
    }

    /// Notes whether the page at `address` was pinned when the child was forked.
    ///
    /// # Errors
    /// The child is gone.
    pub fn probe(&mut self, child: &fork::Child, address: usize) -> anyhow::Result<Held> {
        let held = pagemap::compare(child.pid(), address)?;
        self.note(match held {
            Held::Pinned => "parent and child have different pages: it was pinned at fork",
            Held::Shared => "parent and child map the same page: it was not pinned at fork",
            Held::Unknown => "page frames are not readable here",
        });
        Ok(held)
    }
}
