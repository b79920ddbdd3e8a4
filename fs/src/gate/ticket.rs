//! A ticket: a request's way through the gate.

use std::sync::Arc;

use super::log::Outcome;
use super::{Decision, Gate, Phase, Subject};

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

/// The methods of a [`Ticket`] on an optional one, so that code reads the same with and without a gate.
pub trait Finish {
    /// See [`Ticket::note_path`].
    fn note_path(&mut self, path: &'static str);
    /// See [`Ticket::answers`].
    fn answers(&self);
    /// See [`Ticket::done`].
    fn done(self, result: Result<u64, i32>);
}

impl Finish for Option<Ticket> {
    fn note_path(&mut self, path: &'static str) {
        if let Some(ticket) = self {
            Ticket::note_path(ticket, path);
        }
    }

    fn answers(&self) {
        if let Some(ticket) = self {
            Ticket::answers(ticket);
        }
    }

    fn done(self, result: Result<u64, i32>) {
        if let Some(ticket) = self {
            Ticket::done(ticket, result);
        }
    }
}

/// Takes a request past `phase`, then runs `next`: at once on this thread without a gate, or when no
/// rule matches; otherwise later, on another thread, and this call returns at once.
///
/// Nothing is boxed unless the request is parked. The caller holds no lock that another request needs,
/// and `next` owns all that the request needs to go on.
pub fn pass<F>(ticket: Option<Ticket>, phase: Phase, next: F)
where
    F: FnOnce(Option<Ticket>, Decision) + Send + 'static,
{
    match ticket {
        None => next(None, Decision::Go),
        Some(ticket) => {
            Gate::pass(ticket, phase, |ticket, decision| next(Some(ticket), decision));
        }
    }
}
