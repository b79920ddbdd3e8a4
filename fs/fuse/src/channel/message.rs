//! A message as it was received, not yet looked into.

use crate::abi::InHeader;
use crate::decode::{DecodeError, Dialect, decode};
use crate::payload::Payload;
use crate::request::Request;
use std::io::IoSlice;
use zerocopy::FromBytes as _;

/// Bytes of a message that are received apart from the rest: header and arguments of a WRITE, so
/// that its data begin on a page.
pub(crate) const HEAD: usize = size_of::<InHeader>() + size_of::<crate::abi::WriteIn>();

/// The bytes of one request, for a proxy that passes them on and for [`Message::decode`].
#[derive(Debug)]
pub struct Message {
    pub(crate) head: [u8; HEAD],
    pub(crate) head_len: usize,
    pub(crate) tail: Option<Payload>,
}

impl Message {
    /// The request's header; `None` for what is too short for one.
    pub fn header(&self) -> Option<InHeader> {
        InHeader::read_from_prefix(self.head()).ok().map(|(header, _)| header)
    }

    fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.head_len + self.tail.as_ref().map_or(0, Payload::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces that it lies in, in order.
    pub fn io_slices(&self) -> [IoSlice<'_>; 2] {
        let tail = self.tail.as_ref().map_or(&[][..], Payload::as_slice);
        [IoSlice::new(self.head()), IoSlice::new(tail)]
    }

    /// The request in it. Data in the second piece are handed over without a copy.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(mut self, dialect: Dialect) -> Result<Request, DecodeError> {
        decode(&self.head[..self.head_len], &mut self.tail, dialect)
    }

    /// The request in it, with its data copied; the message stays.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn peek(&self, dialect: Dialect) -> Result<Request, DecodeError> {
        let mut tail = self.tail.as_ref().map(|tail| Payload::from(tail.as_slice()));
        decode(self.head(), &mut tail, dialect)
    }
}
