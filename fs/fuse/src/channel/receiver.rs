//! One thread's place at a channel.

use super::message::{HEAD, Message};
use super::turn::Turn;
use super::{Channel, Ticket};
use crate::Reply;
use crate::decode::{DecodeError, decode};
use crate::payload::Payload;
use crate::request::Request;
use inflight_dio::Buffer;
use std::io;

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The filesystem was unmounted, or the other end closed (ENODEV, end of file).
    #[error("the connection is closed")]
    Closed,
    /// The connection was aborted (ECONNABORTED, only with ABORT_ERROR).
    #[error("the connection was aborted")]
    Aborted,
    /// Nothing is there, and the descriptor does not wait (EAGAIN).
    #[error("there is no request now")]
    WouldBlock,
    /// Anything else.
    #[error("cannot receive a request: {0}")]
    Io(#[source] io::Error),
}

impl ReceiveError {
    fn new(error: io::Error) -> ReceiveError {
        match error.raw_os_error() {
            Some(libc::ENODEV | libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN) => Self::Closed,
            Some(libc::ECONNABORTED) => Self::Aborted,
            Some(libc::EAGAIN) => Self::WouldBlock,
            _ => Self::Io(error),
        }
    }
}

/// A request and the right to answer it.
#[derive(Debug)]
pub struct Received {
    /// What is asked.
    pub request: Request,
    /// By which it is answered.
    pub ticket: Ticket,
}

/// What was received: [`Receiver::receive_any`].
#[derive(Debug)]
pub enum Receive {
    /// A request.
    Request(Received),
    /// What is none; with a ticket where it can be answered.
    Malformed(DecodeError, Option<Ticket>),
}

/// Takes requests from a [`Channel`]. It keeps a buffer between them: one for each thread.
#[derive(Debug)]
pub struct Receiver {
    channel: Channel,
    spare: Option<Buffer>,
    turn: Option<Turn>,
}

impl Receiver {
    pub(super) fn new(channel: Channel) -> Receiver {
        let turn = channel.inner.turn.as_ref().map(Turn::another);
        Receiver { channel, spare: None, turn }
    }

    /// The channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The next request. What is malformed is answered with EIO, and a warning.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn receive(&mut self) -> Result<Received, ReceiveError> {
        loop {
            match self.receive_any()? {
                Receive::Request(received) => return Ok(received),
                Receive::Malformed(error, ticket) => {
                    tracing::warn!("{error}");
                    if let Some(ticket) = ticket {
                        let _ = ticket.reply(Reply::Error(error.errno()));
                    }
                }
            }
        }
    }

    /// The next message, request or not.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn receive_any(&mut self) -> Result<Receive, ReceiveError> {
        let mut message = self.receive_message()?;
        let head = &message.head[..message.head_len];
        let decoded = decode(head, &mut message.tail, self.channel.dialect());
        self.spare =
            message.tail.and_then(|tail| tail.into_buffer().ok()).map(|(buffer, _)| buffer);
        Ok(match decoded {
            Ok(request) => {
                let opcode = request.opcode();
                let (channel, turn) = (self.channel.clone(), self.turn.clone());
                let ticket = Ticket::on_link(channel, request.header.unique, opcode, turn);
                Receive::Request(Received { request, ticket })
            }
            Err(error) => {
                let channel = self.channel.clone();
                let ticket = error
                    .unique()
                    .map(|unique| Ticket::on_link(channel, unique, crate::abi::Opcode(0), None));
                Receive::Malformed(error, ticket)
            }
        })
    }

    /// The next message as it is, for a proxy.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn receive_message(&mut self) -> Result<Message, ReceiveError> {
        let inner = &self.channel.inner;
        let room = (inner.max_write as usize).max(crate::abi::MIN_READ_BUFFER);
        let mut buffer = self.spare.take().filter(|buffer| buffer.capacity() >= room);
        let mut buffer = match buffer.take() {
            Some(buffer) => buffer,
            None => inner.pool.try_take(room).map_err(ReceiveError::Io)?,
        };
        buffer.set_len(room);
        let mut head = [0; HEAD];
        if let Some(turn) = &self.turn {
            turn.take();
        }
        let len = loop {
            match inner.link.receive(&mut head, buffer.as_mut_slice(), self.turn.as_ref()) {
                Ok(0) => return Err(ReceiveError::Closed),
                Ok(len) => break len,
                // ENOENT: the request was interrupted while it was being copied.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::ENOENT)) => {}
                Err(e) => {
                    self.spare = Some(buffer);
                    return Err(ReceiveError::new(e));
                }
            }
        };
        if let Some(turn) = &self.turn
            && self.channel.inner.link.is_behind()
        {
            turn.give_up();
        }
        let head_len = len.min(HEAD);
        buffer.set_len(len - head_len);
        // An empty tail is kept too: its buffer is the next one.
        Ok(Message { head, head_len, tail: Some(Payload::from(buffer)) })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(turn) = &self.turn {
            turn.give_up();
        }
    }
}
