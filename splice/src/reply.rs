//! A reply into /dev/fuse: pipe A, pipe B, one splice.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::filling::{FillError, Filled, Filling};
use crate::pipe::retry;
use crate::pool::PipePool;

/// Why a reply did not arrive. Both pipes of it are closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// `ENOENT`: the request was interrupted or the connection aborted; nobody waits for it.
    #[error("the request is gone")]
    Gone,
    /// `ENODEV`, `ECONNABORTED`, `EPIPE`: the other side is gone for good.
    #[error("the connection is gone")]
    Disconnected,
    /// Some of the reply went, and not the rest.
    #[error("{sent} of {len} bytes of the reply were taken")]
    Short {
        /// Bytes taken.
        sent: usize,
        /// Bytes of the reply, header included.
        len: usize,
    },
    /// Anything else. `EINVAL` from /dev/fuse: the header's length is not the reply's.
    #[error("cannot splice the reply: {0}")]
    Io(#[source] io::Error),
}

impl SendError {
    /// The meaning of what write(2) or splice(2) into a sink failed with.
    pub fn from_sink(e: io::Error) -> Self {
        match e.raw_os_error() {
            Some(libc::ENOENT) => Self::Gone,
            Some(libc::ENODEV | libc::ECONNABORTED | libc::EPIPE) => Self::Disconnected,
            _ => Self::Io(e),
        }
    }
}

/// The write side of /dev/fuse, or of anything that takes a splice and has consumed it when the
/// call returns (a file, another pipe). A socket has not: it may read the pages later.
#[derive(Debug)]
pub struct ReplyChannel {
    sink: OwnedFd,
    pipes: PipePool,
}

impl ReplyChannel {
    /// Replies into `sink` through pipes of `pipes`.
    pub fn new(sink: OwnedFd, pipes: PipePool) -> Self {
        Self { sink, pipes }
    }

    /// The pipes, to begin a reply with.
    pub fn pipes(&self) -> &PipePool {
        &self.pipes
    }

    /// As [`PipePool::begin`].
    ///
    /// # Errors
    /// As [`PipePool::begin`].
    pub fn begin(&self, len_max: usize) -> Result<Filling, FillError> {
        self.pipes.begin(len_max)
    }

    /// Largest data of page-aligned whole pages in one reply, in bytes: 255 pages with the 1 MiB
    /// pipes of an ordinary user. Every piece that starts or ends inside a page costs a slot more.
    pub fn max_payload(&self) -> usize {
        self.pipes.max_payload()
    }

    /// Sends `header` and then `data` as one message: header into pipe B by write(2), pipe A into
    /// pipe B, pipe B into the sink with ONE splice of the full length, as /dev/fuse demands. What
    /// the data held (buffers, guards) is freed after that splice returned.
    ///
    /// # Errors
    /// [`SendError`]. On anything but the full length both pipes are closed, whatever is left in
    /// them.
    pub fn send(&self, header: &[u8], data: Filled) -> Result<(), SendError> {
        let Filled { a, b, .. } = &data;
        let total = header.len() + data.len();
        let result = write_header(b.writer(), header)
            .and_then(|()| pour(a, b.writer(), data.len()))
            .map_err(|e| SendError::Io(e.into()))
            .and_then(|()| deliver(b, self.sink.as_fd(), total));
        data.retire(result.is_ok());
        result
    }
}

fn write_header(pipe: BorrowedFd<'_>, header: &[u8]) -> Result<(), FillError> {
    let done = retry(|| nix::unistd::write(pipe, header))?;
    if done != header.len() {
        return Err(FillError::Length { expected: header.len(), found: done });
    }
    Ok(())
}

fn pour(a: &crate::Pipe, b: BorrowedFd<'_>, len: usize) -> Result<(), FillError> {
    let mut done = 0;
    while done < len {
        match a.splice_to(b, len - done)? {
            0 => return Err(FillError::Length { expected: len, found: done }),
            moved => done += moved,
        }
    }
    Ok(())
}

fn deliver(b: &crate::Pipe, sink: BorrowedFd<'_>, total: usize) -> Result<(), SendError> {
    match b.splice_to(sink, total).map_err(SendError::from_sink)? {
        sent if sent == total => Ok(()),
        sent => Err(SendError::Short { sent, len: total }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_of_dev_fuse_are_told_apart() {
        let of = |errno| SendError::from_sink(io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::ENOENT), SendError::Gone));
        for errno in [libc::ENODEV, libc::ECONNABORTED, libc::EPIPE] {
            assert!(matches!(of(errno), SendError::Disconnected));
        }
        assert!(matches!(of(libc::EINVAL), SendError::Io(_)));
    }
}
