//! A ticket: a request's way through the gate.

use std::sync::Arc;

use super::log::Outcome;
use super::{Decision, Gate, Subject};

/// A request that arrived at a gate and is not finished. Dropping it without [`Ticket::done`] logs the
/// request as dropped.
#[derive(Debug)]
pub struct Ticket {
    gate: Arc<Gate>,
    seq: u64,
    subject: Subject,
    finished: bool,
}

impl Ticket {
    pub(super) fn new(gate: Arc<Gate>, seq: u64, subject: Subject) -> Ticket {
        Ticket { gate, seq, subject, finished: false }
    }

    /// The request is known only now.
    pub(super) fn describe(&mut self, subject: Subject) {
        self.subject = subject;
    }

    /// There is no such request any more.
    pub(super) fn withdraw(mut self) {
        self.finished = true;
        self.gate.finish(self.seq, Outcome::Withdrawn);
    }

    /// Number of arrival, from 1; the id under which the request is parked.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The request.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    pub(super) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Notes which data path serves the request, e.g. `splice-buffered`, `splice-direct`, `copy`.
    pub fn note_path(&self, path: &'static str) {
        self.gate.note(self.seq, |record| record.path = Some(path.to_owned()));
    }

    /// The answer is sent next. Whoever gets it may act on it before [`Ticket::done`] is called.
    pub fn answers(&self) {
        let now_ns = self.gate.now_ns();
        self.gate.note(self.seq, |record| record.times.done = Some(now_ns));
    }

    /// Finishes the record: bytes of the answer (0 where they mean nothing), or a positive errno.
    pub fn done(mut self, result: Result<u64, i32>) {
        self.finished = true;
        let outcome = result.map_or_else(Outcome::Errno, Outcome::Bytes);
        self.gate.finish(self.seq, outcome);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.finished {
            self.gate.finish(self.seq, Outcome::Dropped);
        }
    }
}

/// A request on its way, as whoever serves it keeps it. Parking moves it into the gate's table.
pub trait Passage: Send {
    /// Its ticket.
    fn ticket(&self) -> &Ticket;

    /// It is about to be parked.
    fn parks(&self) {}

    /// It goes on after having been parked, in a thread that is its own and may wait.
    fn resume(self: Box<Self>, decision: Decision);
}
