//! The right to answer a request, once.

use super::turn::Turn;
use super::uring::RingRoute;
use super::{Channel, SendError};
use crate::abi::Opcode;
use crate::encode::{Frame, Reply};
use inflight_dio::Buffer;
use nix::errno::Errno;

/// Answers one request, from any thread. Dropping it answers EIO: nobody waits for ever because
/// a server forgot. To leave a request unanswered on purpose there is [`Ticket::abandon`].
#[derive(Debug)]
pub struct Ticket {
    unique: u64,
    opcode: Opcode,
    route: Option<Route>,
    /// Of the thread that received the request.
    turn: Option<Turn>,
}

#[derive(Debug)]
enum Route {
    Link(Channel),
    Ring(RingRoute),
}

impl Route {
    fn send(self, frame: Frame) -> Result<(), SendError> {
        match self {
            Route::Link(channel) => channel.send(frame),
            Route::Ring(route) => route.send(frame),
        }
    }

    /// The end of a request without an answer. A queue's entry must go back to the kernel all the
    /// same, which an answer that nobody looks at does.
    fn finish(self, unique: u64) -> Result<(), SendError> {
        match self {
            Route::Link(_) => Ok(()),
            Route::Ring(route) => route.send(Reply::Empty.into_frame(unique)),
        }
    }
}

impl Ticket {
    pub(super) fn on_link(
        channel: Channel,
        unique: u64,
        opcode: Opcode,
        turn: Option<Turn>,
    ) -> Ticket {
        Ticket { unique, opcode, route: Some(Route::Link(channel)), turn }
    }

    pub(super) fn on_ring(route: RingRoute, unique: u64, opcode: Opcode) -> Ticket {
        Ticket { unique, opcode, route: Some(Route::Ring(route)), turn: None }
    }

    /// Memory to read into, where the channel has some for this request
    /// ([`Caps::buffers`](super::Caps::buffers)): an answer whose data lie in it is not copied. Of
    /// length 0; `None` too when the request's own data lie in it, or it was taken before.
    pub fn buffer(&mut self) -> Option<Buffer> {
        match &mut self.route {
            Some(Route::Ring(route)) => route.take_buffer().map(|mut buffer| {
                buffer.set_len(0);
                buffer
            }),
            _ => None,
        }
    }

    /// On a queue of [`uring`](super::uring): how many requests it can still take while this one
    /// and others are not answered. `None` where there is no such limit.
    pub fn places_left(&self) -> Option<usize> {
        match &self.route {
            Some(Route::Ring(route)) => Some(route.idle()),
            _ => None,
        }
    }

    /// Has another thread receive what comes next. Where receivers spin
    /// ([`Config::spin`](super::Config::spin)) the thread that took this request keeps on receiving,
    /// so whatever may take long, or wait for another request, says so first. Elsewhere it does
    /// nothing.
    pub fn let_others_receive(&self) {
        if let Some(turn) = &self.turn {
            turn.give_up();
        }
    }

    /// Number of the request.
    pub fn unique(&self) -> u64 {
        self.unique
    }

    /// Whether the kernel waits for an answer; FORGET and the like have none.
    pub fn wants_answer(&self) -> bool {
        self.opcode.wants_answer()
    }

    /// Sends the answer. One to a request that has none is not sent; INTERRUPT may be answered
    /// with EAGAIN, to have it sent again, and with ENOSYS, to have none sent.
    ///
    /// # Errors
    /// [`SendError::Gone`] when the request was interrupted or the connection aborted: the answer
    /// had no effect that anybody sees, and the server goes on. [`SendError::Disconnected`] when
    /// it will not get another request.
    pub fn reply(mut self, reply: Reply) -> Result<(), SendError> {
        let is_meant = matches!(reply, Reply::Error(Errno::EAGAIN | Errno::ENOSYS));
        let route = self.route.take().expect("a ticket is used up only by value");
        let may_answer = self.opcode == Opcode::INTERRUPT && is_meant;
        if !(self.wants_answer() || may_answer) {
            return route.finish(self.unique);
        }
        route.send(reply.into_frame(self.unique))
    }

    /// Leaves the request unanswered until the connection ends. Whoever asked waits, unkillable
    /// on Linux before 6.14 and afterwards unless fuse.max_request_timeout is set.
    pub fn abandon(mut self) {
        if let Some(Route::Ring(route)) = self.route.take() {
            route.abandon();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(route) = self.route.take() else { return };
        if !self.opcode.wants_answer() {
            let _ = route.finish(self.unique);
            return;
        }
        tracing::warn!("request {} ({}) was dropped, not answered: EIO", self.unique, self.opcode);
        let _ = route.send(Reply::Error(Errno::EIO).into_frame(self.unique));
    }
}
