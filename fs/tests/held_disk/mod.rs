//! A disk in memory of which some calls wait until they are let go.
#![allow(dead_code)] // Each test uses a part of it.

use inflight::disk::{Disk, MemoryDisk, Over};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// What waits while the disk is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Flushes,
    /// Reads of nothing but this byte.
    ReadsOf(u8),
}

#[derive(Debug)]
pub struct HeldDisk {
    memory: MemoryDisk,
    held: Held,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_held: bool,
    waiting: usize,
}

impl HeldDisk {
    /// Nothing waits yet.
    pub fn new(memory: MemoryDisk, held: Held) -> HeldDisk {
        HeldDisk { memory, held, state: Mutex::default(), changed: Condvar::new() }
    }

    pub fn hold(&self, is_held: bool) {
        self.state.lock().is_held = is_held;
        self.changed.notify_all();
    }

    /// Until a call waits.
    pub fn await_call(&self) {
        let mut state = self.state.lock();
        let none = |state: &mut State| state.waiting == 0;
        let waited = self.changed.wait_while_for(&mut state, none, PATIENCE);
        assert!(!waited.timed_out(), "nobody asks for {:?}", self.held);
    }

    fn wait(&self) {
        let mut state = self.state.lock();
        state.waiting += 1;
        self.changed.notify_all();
        self.changed.wait_while(&mut state, |state| state.is_held);
        state.waiting -= 1;
    }
}

impl Over for HeldDisk {
    fn below(&self) -> &dyn Disk {
        &self.memory
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)?;
        if matches!(self.held, Held::ReadsOf(byte) if out.iter().all(|b| *b == byte)) {
            self.wait();
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.held == Held::Flushes {
            self.wait();
        }
        self.memory.sync()
    }
}
