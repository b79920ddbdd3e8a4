//! Where an answer goes.

use inflight_dio::Buffer;
use inflight_fuse::Reply;
use inflight_fuse::channel::{SendError, Ticket};

/// The way of an answer that is not a channel's [`Ticket`]: the crate fuser's.
pub trait Answers: Send {
    /// Sends it.
    fn send(self: Box<Self>, reply: Reply);

    /// There will be none.
    fn abandon(self: Box<Self>);
}

/// Where the answer to one request goes.
pub enum Sink {
    /// Back through the channel that the request came by.
    Channel(Ticket),
    /// Elsewhere. Nothing is spliced there.
    Other(Box<dyn Answers>),
}

impl Sink {
    /// Whether data may be answered in a pipe.
    pub(super) fn splices(&self) -> bool {
        match self {
            // A queue's entry is answered in memory.
            Sink::Channel(ticket) => ticket.places_left().is_none(),
            Sink::Other(_) => false,
        }
    }

    /// Memory that is answered without a copy, if there is some.
    pub(super) fn buffer(&mut self) -> Option<Buffer> {
        match self {
            Sink::Channel(ticket) => ticket.buffer(),
            Sink::Other(_) => None,
        }
    }

    /// Requests that can still be taken where this one came from, while it is not answered.
    pub(super) fn places_left(&self) -> Option<usize> {
        match self {
            Sink::Channel(ticket) => ticket.places_left(),
            Sink::Other(_) => None,
        }
    }

    /// The next step may take long: see [`Ticket::let_others_receive`].
    pub(super) fn let_others_receive(&self) {
        if let Sink::Channel(ticket) = self {
            ticket.let_others_receive();
        }
    }

    pub(super) fn send(self, reply: Reply) {
        match self {
            Sink::Channel(ticket) => match ticket.reply(reply) {
                // Nobody waits for it any more.
                Ok(()) | Err(SendError::Gone | SendError::Disconnected) => {}
                Err(e) => tracing::error!("an answer was not taken: {e}"),
            },
            Sink::Other(sink) => sink.send(reply),
        }
    }

    pub(super) fn abandon(self) {
        match self {
            Sink::Channel(ticket) => ticket.abandon(),
            Sink::Other(sink) => sink.abandon(),
        }
    }
}
