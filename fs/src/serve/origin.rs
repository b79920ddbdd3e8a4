//! Where a request came from, and where its answer goes.

use super::dispatch;
use super::exchange::Exchange;
use super::notice::{Outcome, failed};
use super::server::Server;
use super::sink::Sink;
use crate::errno::Errno;
use crate::mutant::{self, Mutant};
use crate::ops::flights::{Asked, Begun};
use inflight_fuse::{Data, Payload, Reply, Request};
use inflight_gate::Ticket;
use std::sync::Arc;

/// Where a request came from, and where its answer goes.
pub struct Origin {
    pub(super) server: Arc<Server>,
    /// `None` when it was answered.
    pub(super) sink: Option<Sink>,
    /// With a gate.
    pub(super) ticket: Option<Ticket>,
    begun: Begun,
    /// Payloads that the image had when it came, for [`Mutant::DropQueuedWrite`].
    pub(super) writes_before: u64,
}

impl Origin {
    pub(super) fn new(
        server: Arc<Server>,
        sink: Sink,
        ticket: Option<Ticket>,
        asked: Asked,
    ) -> Origin {
        let begun = server.fs().stats().begin(asked);
        let queued = mutant::is(Mutant::DropQueuedWrite);
        let writes_before = if queued { server.fs().stats().writes() } else { 0 };
        Origin { server, sink: Some(sink), ticket, begun, writes_before }
    }

    pub(super) fn note_path(&self, path: &'static str) {
        if let Some(ticket) = &self.ticket {
            ticket.note_path(path);
        }
    }

    /// Whether the kernel may be stopped while it copies the answer.
    pub(super) fn may_be_held_copying(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::may_be_held_copying)
    }

    /// Puts the data of an answer where the kernel is stopped while it copies them, if the gate says so.
    pub(super) fn hold_copying(&self, data: Data) -> Data {
        let Some(ticket) = self.ticket.as_ref().filter(|ticket| ticket.may_be_held_copying())
        else {
            return data;
        };
        // What is in a pipe can be taken out once.
        let bytes = match data.to_vec() {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!("the data of an answer cannot be held: {error}");
                return data;
            }
        };
        match ticket.hold_copying(&bytes) {
            Some(held) => {
                ticket.note_path("copy");
                Data::Payload(Payload::from_memory(Box::new(held)))
            }
            None => Data::from(Payload::from(bytes)),
        }
    }

    /// Answers; `held` is what must last until the answer was taken.
    pub(super) fn answer<T>(mut self, reply: Reply, outcome: Outcome, held: T) -> Arc<Server> {
        if let Some(ticket) = &self.ticket {
            ticket.answers();
        }
        if let Some(sink) = self.sink.take() {
            sink.send(reply);
        }
        drop(held);
        let (ticket, server) = (self.ticket.take(), Arc::clone(&self.server));
        drop(self);
        if let Some(ticket) = ticket {
            ticket.done(outcome);
        }
        server
    }

    pub(super) fn fail(self, errno: Errno) -> Exchange {
        self.answer(Reply::Error(errno), failed(errno), ());
        Exchange::Replied(None)
    }

    pub(super) fn abandon(mut self) -> Exchange {
        if let Some(sink) = self.sink.take() {
            sink.abandon();
        }
        Exchange::Replied(None)
    }

    /// [`Mutant::ReplyBeforeApply`] answers what it expects at once.
    pub(super) fn answer_early(&mut self, request: &Request) {
        if mutant::is(Mutant::ReplyBeforeApply)
            && let Some(expected) = dispatch::expected(&self.server, request)
            && let Some(sink) = self.sink.take()
        {
            sink.send(expected);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.server.fs().stats().end(&self.begun);
    }
}
