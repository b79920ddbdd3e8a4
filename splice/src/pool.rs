//! Pipes that are used again only when they are proved empty.

use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use inflight_dio::page_size;
use parking_lot::Mutex;
use serde::Serialize;

use crate::filling::{FillError, Filling};
use crate::mutant::{self, Mutant};
use crate::pipe::Pipe;

/// Pipes of one size. Cloning gives another handle to the same pool.
#[derive(Debug, Clone)]
pub struct PipePool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    free: Mutex<Vec<Pipe>>,
    capacity: usize,
    slots: usize,
    keep: usize,
    opened: AtomicU64,
    reused: AtomicU64,
    discarded: AtomicU64,
}

/// What a [`PipePool`] has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PipeReport {
    /// Slots that the first pipe was granted.
    pub slots: usize,
    /// Pipes waiting now.
    pub idle: usize,
    /// Pipes opened.
    pub opened: u64,
    /// Times a waiting pipe was taken.
    pub reused: u64,
    /// Pipes closed because they were not, or could not be shown to be, empty, or were smaller
    /// than `slots`.
    pub discarded: u64,
}

/// A pipe on loan. Dropping it closes it; only [`PooledPipe::give_back`] lets it be used again.
#[derive(Debug)]
pub struct PooledPipe {
    pipe: Option<Pipe>,
    pool: Arc<Shared>,
}

impl PipePool {
    /// A pool of pipes of `capacity` bytes that keeps at most `keep` idle ones. Opens one to see
    /// what is granted.
    ///
    /// # Errors
    /// As [`Pipe::new`].
    pub fn new(capacity: usize, keep: usize) -> io::Result<Self> {
        let first = Pipe::with_capacity(capacity)?;
        let shared = Shared {
            slots: first.slots(),
            free: Mutex::new(vec![first]),
            capacity,
            keep,
            opened: AtomicU64::new(1),
            reused: AtomicU64::new(0),
            discarded: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// An empty pipe.
    ///
    /// # Errors
    /// As [`Pipe::new`].
    pub fn take(&self) -> io::Result<PooledPipe> {
        let waiting = self.shared.free.lock().pop();
        let pipe = match waiting {
            Some(pipe) => {
                self.shared.reused.fetch_add(1, Ordering::Relaxed);
                pipe
            }
            None => {
                let pipe = Pipe::with_capacity(self.shared.capacity)?;
                self.shared.opened.fetch_add(1, Ordering::Relaxed);
                pipe
            }
        };
        Ok(PooledPipe { pipe: Some(pipe), pool: Arc::clone(&self.shared) })
    }

    /// Starts the data of a reply of at most `len_max` bytes, pieces of whole pages assumed.
    ///
    /// # Errors
    /// [`FillError::Full`] when that many pages cannot fit beside the header, so that the caller
    /// copies instead; [`FillError::Io`] when no pipe can be had.
    pub fn begin(&self, len_max: usize) -> Result<Filling, FillError> {
        Filling::new(self.take()?, self.take()?, len_max)
    }

    /// Bytes of whole, page-aligned pages that one reply can carry: one slot is the header's.
    pub fn max_payload(&self) -> usize {
        (self.shared.slots - 1) * page_size()
    }

    /// What the pool has done.
    pub fn report(&self) -> PipeReport {
        PipeReport {
            slots: self.shared.slots,
            idle: self.shared.free.lock().len(),
            opened: self.shared.opened.load(Ordering::Relaxed),
            reused: self.shared.reused.load(Ordering::Relaxed),
            discarded: self.shared.discarded.load(Ordering::Relaxed),
        }
    }
}

impl PooledPipe {
    /// Returns the pipe to the pool if it is empty, closes it if it is not. One that was granted
    /// less than the pool's first (the user is over `pipe-user-pages-soft`) is closed too: kept, it
    /// would make every later reply of its size a refusal.
    pub fn give_back(mut self) {
        let whole = self.slots() >= self.pool.slots;
        if !whole || !matches!(self.is_empty(), Ok(true)) {
            return;
        }
        let Some(pipe) = self.pipe.take() else { return };
        let mut free = self.pool.free.lock();
        if free.len() < self.pool.keep {
            free.push(pipe);
        }
    }
}

impl Deref for PooledPipe {
    type Target = Pipe;

    fn deref(&self) -> &Pipe {
        self.pipe.as_ref().expect("only give_back takes the pipe, and it takes the whole loan")
    }
}

impl Drop for PooledPipe {
    fn drop(&mut self) {
        if mutant::is(Mutant::ReuseDirtyPipe)
            && let Some(pipe) = self.pipe.take()
        {
            self.pool.free.lock().push(pipe);
        }
        if self.pipe.is_some() {
            self.pool.discarded.fetch_add(1, Ordering::Relaxed);
        }
    }
}
