//! Transfers of the server's own on a queue's ring.

use inflight_dio::Buffer;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// A transfer that is over.
#[derive(Debug)]
pub struct Completion {
    /// What it was queued with.
    pub token: u64,
    /// Bytes; short at the end of a file, and wherever the kernel stopped early.
    pub result: io::Result<usize>,
    /// The memory that was handed in.
    pub buffer: Option<Buffer>,
}

/// What a transfer in flight needs, kept until its completion was taken.
pub(super) struct Flight {
    pub(super) token: u64,
    pub(super) buffer: Option<Buffer>,
    pub(super) _file: Option<Arc<File>>,
}

/// Places for transfers, a fixed number.
pub(super) struct Flights {
    places: Vec<Option<Flight>>,
    vacant: Vec<usize>,
}

impl Flights {
    pub(super) fn new(depth: usize) -> Flights {
        Flights { places: (0..depth).map(|_| None).collect(), vacant: (0..depth).rev().collect() }
    }

    /// A place for the transfer, or the transfer when all are taken.
    pub(super) fn start(&mut self, flight: Flight) -> Result<usize, Flight> {
        match self.vacant.pop() {
            Some(place) => {
                self.places[place] = Some(flight);
                Ok(place)
            }
            None => Err(flight),
        }
    }

    pub(super) fn land(&mut self, place: usize) -> Option<Flight> {
        let flight = self.places.get_mut(place)?.take()?;
        self.vacant.push(place);
        Some(flight)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.vacant.len() == self.places.len()
    }
}
