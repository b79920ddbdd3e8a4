//! What a result from the kernel means for a transfer: the rules, without the I/O.

use std::io;

use crate::engine::Op;

/// EAGAIN in a row before it is believed. The kernel gives it for want of memory or tags.
const AGAIN_MAX: u32 = 10_000;

/// A transfer that may take several system calls.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    op: Op,
    len: usize,
    align: usize,
    done: usize,
    futile: u32,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Step {
    /// The transfer is over.
    Finished(io::Result<usize>),
    /// The bytes from `Progress::done` on have to be tried (again).
    Again,
}

impl Progress {
    /// `align`: what offset and length of every attempt must be a multiple of.
    pub(crate) fn new(op: Op, len: usize, align: usize) -> Self {
        Self { op, len, align, done: 0, futile: 0 }
    }

    /// Bytes that are through.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// Takes the result of one attempt at the bytes from `done` on.
    pub(crate) fn advance(&mut self, result: io::Result<usize>) -> Step {
        match result {
            Ok(0) if self.done == self.len => Step::Finished(Ok(self.done)),
            Ok(0) => self.nothing(),
            Ok(n) => self.some(n),
            Err(e) => self.failed(e),
        }
    }

    fn nothing(&self) -> Step {
        match self.op {
            // End of file.
            Op::Read => Step::Finished(Ok(self.done)),
            // write(2) returns 0 for a non-zero count only where no more can be written.
            Op::Write => Step::Finished(Err(io::Error::from_raw_os_error(libc::EIO))),
        }
    }

    fn some(&mut self, n: usize) -> Step {
        assert!(n <= self.len - self.done, "the kernel moved more than was asked");
        let reached = self.done + n;
        if reached == self.len {
            self.done = reached;
            return Step::Finished(Ok(reached));
        }
        let aligned = reached - reached % self.align;
        if aligned != reached && self.op == Op::Read {
            // A direct read ends off a boundary only at the end of the file.
            self.done = reached;
            return Step::Finished(Ok(reached));
        }
        // The last block of a short write may be half written: it is written again.
        if aligned == self.done {
            return self.again(libc::EIO);
        }
        (self.done, self.futile) = (aligned, 0);
        Step::Again
    }

    fn failed(&mut self, e: io::Error) -> Step {
        match e.raw_os_error() {
            Some(libc::EINTR) => Step::Again,
            Some(libc::EAGAIN) => self.again(libc::EAGAIN),
            _ => Step::Finished(Err(e)),
        }
    }

    /// Another attempt, unless there were too many in a row that brought nothing.
    fn again(&mut self, errno: i32) -> Step {
        self.futile += 1;
        if self.futile > AGAIN_MAX {
            return Step::Finished(Err(io::Error::from_raw_os_error(errno)));
        }
        std::thread::yield_now();
        Step::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn err(errno: i32) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(errno))
    }

    /// Feeds results in order; the last one must finish the transfer.
    fn run(op: Op, len: usize, results: Vec<io::Result<usize>>) -> (io::Result<usize>, Vec<usize>) {
        let mut p = Progress::new(op, len, 512);
        let mut starts = Vec::new();
        for r in results {
            starts.push(p.done());
            if let Step::Finished(r) = p.advance(r) {
                return (r, starts);
            }
        }
        panic!("not finished, at {}", p.done());
    }

    #[test]
    fn a_short_transfer_goes_on_where_it_stopped() {
        let (r, starts) = run(Op::Read, 4096, vec![Ok(512), Ok(1024), Ok(2560)]);
        assert_eq!((r.unwrap(), starts), (4096, vec![0, 512, 1536]));
    }

    #[test]
    fn end_of_file_gives_the_short_count() {
        assert_eq!(run(Op::Read, 4096, vec![Ok(1024), Ok(0)]).0.unwrap(), 1024);
        assert_eq!(run(Op::Read, 4096, vec![Ok(1024), Ok(100)]).0.unwrap(), 1124);
        assert_eq!(run(Op::Read, 4096, vec![Ok(0)]).0.unwrap(), 0);
    }

    #[test]
    fn a_write_torn_inside_a_block_writes_that_block_again() {
        let (r, starts) = run(Op::Write, 2048, vec![Ok(700), Ok(1536)]);
        assert_eq!((r.unwrap(), starts), (2048, vec![0, 512]));
    }

    #[test]
    fn a_write_of_nothing_is_an_error_not_a_loop() {
        assert_eq!(run(Op::Write, 512, vec![Ok(0)]).0.unwrap_err().raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn interruptions_are_retried_and_device_errors_reported() {
        let (r, starts) = run(Op::Write, 1024, vec![err(libc::EINTR), Ok(512), err(libc::EIO)]);
        assert_eq!(r.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert_eq!(starts, vec![0, 0, 512]);
        let results = vec![err(libc::EAGAIN), err(libc::ENOSPC)];
        let (r, _) = run(Op::Write, 1024, results);
        assert_eq!(r.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn endless_eagain_is_reported() {
        let mut p = Progress::new(Op::Read, 512, 512);
        let end = (0..=AGAIN_MAX).find_map(|_| match p.advance(err(libc::EAGAIN)) {
            Step::Finished(r) => Some(r),
            Step::Again => None,
        });
        assert_eq!(end.unwrap().unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    }
}
