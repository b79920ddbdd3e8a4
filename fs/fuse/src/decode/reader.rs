//! A walk over the two pieces of a message.

use super::Malformed;
use crate::name::Name;
use crate::payload::Payload;
use zerocopy::{FromBytes, IntoBytes};

/// What is left of a message: the rest of its head, then the rest of its tail.
pub(super) struct Reader<'a> {
    head: &'a [u8],
    tail: &'a mut Option<Payload>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(head: &'a [u8], tail: &'a mut Option<Payload>) -> Reader<'a> {
        Reader { head, tail }
    }

    pub(super) fn len(&self) -> usize {
        self.head.len() + self.tail().len()
    }

    fn tail(&self) -> &[u8] {
        self.tail.as_ref().map_or(&[], Payload::as_slice)
    }

    fn skip(&mut self, count: usize) {
        let in_head = count.min(self.head.len());
        self.head = &self.head[in_head..];
        if let Some(tail) = self.tail {
            tail.skip(count - in_head);
        }
    }

    /// The next structure.
    pub(super) fn take<T: FromBytes + IntoBytes>(&mut self) -> Result<T, Malformed> {
        let size = size_of::<T>();
        if let Ok((value, rest)) = T::read_from_prefix(self.head) {
            self.head = rest;
            return Ok(value);
        }
        if self.len() < size {
            return Err(Malformed::Arguments);
        }
        let mut value = T::new_zeroed();
        let (first, second) = value.as_mut_bytes().split_at_mut(self.head.len());
        first.copy_from_slice(self.head);
        second.copy_from_slice(&self.tail()[..second.len()]);
        self.skip(size);
        Ok(value)
    }

    /// The next bytes up to a zero, which is skipped.
    pub(super) fn name(&mut self) -> Result<Name, Malformed> {
        let end = |bytes: &[u8]| bytes.iter().position(|byte| *byte == 0);
        if let Some(len) = end(self.head) {
            let name = Name::new(&self.head[..len]);
            self.head = &self.head[len + 1..];
            return Ok(name);
        }
        let len = end(self.tail()).ok_or(Malformed::Name)?;
        let name = Name::from_vec([self.head, &self.tail()[..len]].concat());
        self.skip(self.head.len() + len + 1);
        Ok(name)
    }

    /// The next `len` bytes: the tail itself where they are all that is left and all in it.
    pub(super) fn data(&mut self, len: usize) -> Result<Payload, Malformed> {
        if self.len() < len {
            return Err(Malformed::Data);
        }
        if self.head.is_empty() && len > 0 && self.tail().len() == len {
            return self.tail.take().ok_or(Malformed::Data);
        }
        let in_head = len.min(self.head.len());
        let bytes = [&self.head[..in_head], &self.tail()[..len - in_head]].concat();
        self.skip(len);
        Ok(Payload::from(bytes))
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        let bytes = [self.head, self.tail()].concat();
        self.skip(bytes.len());
        bytes
    }

    /// That nothing is left.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.len() == 0 { Ok(()) } else { Err(Malformed::TooLong) }
    }
}
