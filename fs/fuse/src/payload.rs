//! The data of a request, owned, so that a request can be put aside without a copy.

use inflight_dio::{Buffer, Lender, page_size};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Owned bytes: the data of WRITE, SETXATTR, IOCTL and NOTIFY_REPLY, and what a file is read into.
///
/// What a channel received into a pool's buffer stays there; see
/// [`Payload::is_aligned`] and [`Payload::into_buffer`].
pub struct Payload {
    source: Source,
    start: usize,
    len: usize,
}

enum Source {
    Heap(Vec<u8>),
    Buffer(Buffer),
    Other(Box<dyn AsRef<[u8]> + Send>),
}

impl Payload {
    /// All bytes of memory that is neither on the heap nor a pool's.
    pub fn from_memory(memory: Box<dyn AsRef<[u8]> + Send>) -> Payload {
        let len = (*memory).as_ref().len();
        Payload { source: Source::Other(memory), start: 0, len }
    }

    /// The bytes of `range` in a buffer.
    ///
    /// # Panics
    /// When the range is not inside the bytes in use of the buffer.
    pub fn from_buffer(buffer: Buffer, range: Range<usize>) -> Payload {
        assert!(range.start <= range.end && range.end <= buffer.len(), "{range:?}");
        Payload { source: Source::Buffer(buffer), start: range.start, len: range.len() }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        let all = match &self.source {
            Source::Heap(bytes) => bytes,
            Source::Buffer(buffer) => buffer.as_slice(),
            Source::Other(memory) => (**memory).as_ref(),
        };
        &all[self.start..self.start + self.len]
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps at most the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Drops the first `count` bytes, or all.
    pub fn skip(&mut self, count: usize) {
        let count = count.min(self.len);
        self.start += count;
        self.len -= count;
    }

    /// Whether the bytes lie in a buffer of a pool and start on a page, as direct I/O wants it.
    pub fn is_aligned(&self) -> bool {
        matches!(self.source, Source::Buffer(_)) && self.start.is_multiple_of(page_size())
    }

    /// Whether the bytes lie in memory of `lender`'s.
    pub(crate) fn is_from(&self, lender: &Arc<Lender>) -> bool {
        matches!(&self.source, Source::Buffer(buffer) if buffer.is_from(lender))
    }

    /// The buffer and where in it the bytes are.
    ///
    /// # Errors
    /// The payload itself when its bytes are not in a pool's buffer.
    pub fn into_buffer(self) -> Result<(Buffer, Range<usize>), Payload> {
        let range = self.start..self.start + self.len;
        match self.source {
            Source::Buffer(buffer) => Ok((buffer, range)),
            source => Err(Payload { source, start: self.start, len: self.len }),
        }
    }

    /// Whether the bytes are those of a pool's buffer, all of it: [`Payload::into_buffer`] loses nothing.
    pub fn is_whole_buffer(&self) -> bool {
        match &self.source {
            Source::Buffer(buffer) => self.start == 0 && self.len == buffer.len(),
            _ => false,
        }
    }

    /// The bytes on the heap, copied unless they are there.
    pub fn into_vec(self) -> Vec<u8> {
        match self.source {
            Source::Heap(mut bytes) if self.start == 0 => {
                bytes.truncate(self.len);
                bytes
            }
            _ => self.as_slice().to_vec(),
        }
    }
}

impl Default for Payload {
    fn default() -> Payload {
        Payload::from(Vec::new())
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        let len = bytes.len();
        Payload { source: Source::Heap(bytes), start: 0, len }
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Payload {
        Payload::from(bytes.to_vec())
    }
}

impl From<Buffer> for Payload {
    /// All bytes in use.
    fn from(buffer: Buffer) -> Payload {
        let len = buffer.len();
        Payload { source: Source::Buffer(buffer), start: 0, len }
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Payload) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Payload {}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inflight_dio::{Pool, PoolConfig};

    #[test]
    fn a_buffer_goes_in_and_comes_out_without_a_copy() {
        let pool = Pool::new(PoolConfig { slabs: 0, ..PoolConfig::default() }).unwrap();
        let mut buffer = pool.take(3 * page_size());
        buffer.as_mut_slice()[page_size()..].fill(7);
        let address = buffer.as_ptr();
        let mut payload = Payload::from_buffer(buffer, page_size()..3 * page_size());
        assert!(payload.is_aligned());
        payload.truncate(5000);
        assert_eq!(payload.as_slice(), [7; 5000]);
        let (buffer, range) = payload.into_buffer().unwrap();
        assert_eq!(buffer.as_ptr(), address);
        assert_eq!(range, page_size()..page_size() + 5000);
    }

    #[test]
    fn what_is_on_the_heap_has_no_buffer_and_no_alignment() {
        let mut payload = Payload::from(&b"abcdef"[..]);
        payload.skip(2);
        payload.truncate(3);
        assert!(!payload.is_aligned());
        let payload = payload.into_buffer().unwrap_err();
        assert_eq!(payload.into_vec(), b"cde");
    }
}
