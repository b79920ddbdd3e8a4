//! The right to answer a request, once.

use super::{Channel, SendError};
use crate::abi::Opcode;
use crate::encode::Reply;
use nix::errno::Errno;

/// Answers one request, from any thread. Dropping it answers EIO: nobody waits for ever because
/// a server forgot. To leave a request unanswered on purpose there is [`Ticket::abandon`].
#[derive(Debug)]
pub struct Ticket {
    unique: u64,
    opcode: Opcode,
    route: Option<Route>,
}

#[derive(Debug)]
enum Route {
    Link(Channel),
}

impl Ticket {
    pub(super) fn on_link(channel: Channel, unique: u64, opcode: Opcode) -> Ticket {
        Ticket { unique, opcode, route: Some(Route::Link(channel)) }
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
    /// with EAGAIN, to have it sent again.
    ///
    /// # Errors
    /// [`SendError::Gone`] when the request was interrupted or the connection aborted: the answer
    /// had no effect that anybody sees, and the server goes on. [`SendError::Disconnected`] when
    /// it will not get another request.
    pub fn reply(mut self, reply: Reply) -> Result<(), SendError> {
        let is_again = matches!(reply, Reply::Error(Errno::EAGAIN));
        let route = self.route.take().expect("a ticket is used up only by value");
        let may_answer = self.opcode == Opcode::INTERRUPT && is_again;
        if !(self.wants_answer() || may_answer) {
            return Ok(());
        }
        match route {
            Route::Link(channel) => channel.send(reply.into_frame(self.unique)),
        }
    }

    /// Leaves the request unanswered until the connection ends. Whoever asked waits, unkillable
    /// on Linux before 6.14 and afterwards unless fuse.max_request_timeout is set.
    pub fn abandon(mut self) {
        self.route = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(route) = self.route.take() else { return };
        if !self.opcode.wants_answer() {
            return;
        }
        tracing::warn!("request {} ({}) was dropped, not answered: EIO", self.unique, self.opcode);
        let Route::Link(channel) = route;
        let _ = channel.send(Reply::Error(Errno::EIO).into_frame(self.unique));
    }
}
