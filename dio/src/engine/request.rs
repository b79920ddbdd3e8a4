//! What a caller hands to the queue, and what comes back.

use std::io;
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::file::DirectFile;

/// Direction of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// From the file into memory.
    Read,
    /// From memory into the file.
    Write,
}

/// A queued transfer of the first `len` bytes of `buf`.
#[derive(Debug)]
pub struct Request {
    /// The file.
    pub file: Arc<DirectFile>,
    /// The memory, the engine's until the completion.
    pub buf: Buffer,
    /// Byte offset in the file, a multiple of its alignment.
    pub offset: u64,
    /// Bytes, a multiple of the alignment; at most the buffer's capacity (read) or length (write).
    pub len: usize,
    /// Direction.
    pub op: Op,
}

/// What became of a [`Request`].
#[derive(Debug)]
pub struct Completion {
    /// The buffer. After a read that succeeded its length is the count.
    pub buf: Buffer,
    /// Bytes transferred. Less than asked only at the end of the file.
    pub result: io::Result<usize>,
}

/// A range of a buffer: `len` bytes from byte `from`. An element of a bvec that owns its page.
#[derive(Debug)]
pub struct Part {
    /// The memory.
    pub buf: Buffer,
    /// First byte, a multiple of the memory alignment.
    pub from: usize,
    /// Bytes, a multiple of the file's alignment.
    pub len: usize,
}

/// A queued transfer between one file range and several pieces of memory, in order.
#[derive(Debug)]
pub struct VectoredRequest {
    /// The file.
    pub file: Arc<DirectFile>,
    /// The memory, at most 1024 parts (`UIO_MAXIOV`).
    pub parts: Vec<Part>,
    /// Byte offset in the file, a multiple of its alignment.
    pub offset: u64,
    /// Direction.
    pub op: Op,
}

/// What became of a [`VectoredRequest`].
#[derive(Debug)]
pub struct VectoredCompletion {
    /// The parts as they were given.
    pub parts: Vec<Part>,
    /// Bytes transferred. Less than asked only at the end of the file.
    pub result: io::Result<usize>,
}

/// Called once, with the memory, on the engine's completion thread: it must not block for long and
/// must not wait for another request of the same engine.
pub type Done = Box<dyn FnOnce(Completion) + Send>;

/// [`Done`] of a [`VectoredRequest`].
pub type VectoredDone = Box<dyn FnOnce(VectoredCompletion) + Send>;
