//! A request on its way: it owns its memory until the kernel is done with it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use io_uring::{opcode, squeue, types::Fd};

use crate::buffer::Buffer;
use crate::engine::progress::{Progress, Step};
use crate::engine::{Op, Part};
use crate::file::DirectFile;
use crate::pool::Pool;

/// The memory of a request.
pub(crate) enum Payload {
    /// One range at the start of a buffer.
    One(Buffer, usize),
    /// Several ranges, filled or written in order.
    Many(Vec<Part>),
}

/// Gets the memory back with the result.
pub(crate) type Finish = Box<dyn FnOnce(Payload, io::Result<usize>) + Send>;

pub(crate) struct Task {
    // Identity.
    file: Arc<DirectFile>,
    op: Op,
    offset: u64,
    // Memory. `iovecs` points into `payload` and is read by the kernel during one attempt.
    payload: Payload,
    iovecs: Vec<libc::iovec>,
    // Completion.
    progress: Progress,
    finish: Finish,
}

// SAFETY: the iovecs are addresses inside the payload's buffers, which the Task owns and which
// are Send themselves; nothing dereferences them but the kernel.
unsafe impl Send for Task {}

impl Task {
    /// A task, or the request's memory back with `EINVAL` when it is not aligned.
    pub(crate) fn new(
        file: Arc<DirectFile>,
        op: Op,
        offset: u64,
        payload: Payload,
        finish: Finish,
    ) -> Result<Self, (Payload, io::Error, Finish)> {
        let align = file.alignment();
        let step = if op == Op::Read { align.read_offset } else { align.offset };
        let len = payload.len();
        if let Err(e) = payload.check(op, offset, step, align.memory) {
            return Err((payload, e, finish));
        }
        let progress = Progress::new(op, len, step);
        Ok(Self { file, op, offset, payload, iovecs: Vec::new(), progress, finish })
    }

    /// One attempt by pread/pwrite after another, until the transfer is over.
    pub(crate) fn run(mut self) {
        loop {
            let result = self.attempt();
            if let Step::Finished(result) = self.progress.advance(result) {
                return self.finish(result);
            }
        }
    }

    /// Takes the result of the attempt in flight. `None` when there must be another one.
    pub(crate) fn advance(&mut self, result: io::Result<usize>) -> Option<io::Result<usize>> {
        match self.progress.advance(result) {
            Step::Finished(result) => Some(result),
            Step::Again => None,
        }
    }

    /// Hands memory and result to whoever asked.
    pub(crate) fn finish(self, result: io::Result<usize>) {
        let Self { mut payload, op, finish, .. } = self;
        if let (Payload::One(buf, _), Op::Read, Ok(n)) = (&mut payload, op, &result) {
            buf.set_len(*n);
        }
        finish(payload, result);
    }

    /// The next attempt as a submission entry. Its addresses stay valid for as long as the Task
    /// exists, wherever it is moved: they are on the heap or in a mapping. `fixed`: the pool whose
    /// slabs are the fixed buffers of the ring that the entry is for.
    pub(crate) fn entry(&mut self, fixed: Option<&Pool>) -> squeue::Entry {
        let (fd, done) = (Fd(self.file.as_fd_raw()), self.progress.done());
        let at = self.offset + done as u64;
        match &self.payload {
            Payload::One(buf, len) => {
                let start = buf.start().as_ptr().wrapping_add(done);
                let rest = (len - done) as u32;
                match (self.op, fixed.and_then(|pool| pool.fixed_index(buf))) {
                    (Op::Read, Some(i)) => {
                        opcode::ReadFixed::new(fd, start, rest, i).offset(at).build()
                    }
                    (Op::Write, Some(i)) => {
                        opcode::WriteFixed::new(fd, start, rest, i).offset(at).build()
                    }
                    (Op::Read, None) => opcode::Read::new(fd, start, rest).offset(at).build(),
                    (Op::Write, None) => opcode::Write::new(fd, start, rest).offset(at).build(),
                }
            }
            Payload::Many(parts) => {
                self.iovecs = iovecs_from(parts, done);
                let (v, n) = (self.iovecs.as_ptr(), self.iovecs.len() as u32);
                match self.op {
                    Op::Read => opcode::Readv::new(fd, v, n).offset(at).build(),
                    Op::Write => opcode::Writev::new(fd, v, n).offset(at).build(),
                }
            }
        }
    }

    fn attempt(&mut self) -> io::Result<usize> {
        let done = self.progress.done();
        let (file, at) = (self.file.file(), self.offset + done as u64);
        match (&mut self.payload, self.op) {
            (Payload::One(buf, len), Op::Read) => {
                buf.set_len(*len);
                file.read_at(&mut buf.as_mut_slice()[done..], at)
            }
            (Payload::One(buf, len), Op::Write) => file.write_at(&buf.as_slice()[done..*len], at),
            (Payload::Many(parts), op) => {
                self.iovecs = iovecs_from(parts, done);
                vectored(file, op, &self.iovecs, at)
            }
        }
    }
}

impl Payload {
    fn len(&self) -> usize {
        match self {
            Self::One(_, len) => *len,
            Self::Many(parts) => parts.iter().map(|p| p.len).sum(),
        }
    }

    /// The demands of O_DIRECT, checked before the kernel sees anything.
    fn check(&self, op: Op, offset: u64, step: usize, memory: usize) -> io::Result<()> {
        let room = |buf: &Buffer| if op == Op::Read { buf.capacity() } else { buf.len() };
        let fits = match self {
            Self::One(buf, len) => *len <= room(buf) && u32::try_from(*len).is_ok(),
            Self::Many(parts) => {
                parts.len() <= PARTS_MAX
                    && parts.iter().all(|p| {
                        p.from.checked_add(p.len).is_some_and(|end| end <= room(&p.buf))
                            && p.from % memory == 0
                            && p.len % step == 0
                    })
            }
        };
        let aligned = offset.is_multiple_of(step as u64) && self.len().is_multiple_of(step);
        let reachable = offset.checked_add(self.len() as u64).is_some_and(|e| e <= i64::MAX as u64);
        if fits && aligned && reachable {
            return Ok(());
        }
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }
}

/// `UIO_MAXIOV` (include/uapi/linux/uio.h).
pub(crate) const PARTS_MAX: usize = 1024;

/// The ranges of `parts` without their first `done` bytes.
fn iovecs_from(parts: &[Part], done: usize) -> Vec<libc::iovec> {
    let whole: Vec<_> = parts
        .iter()
        .map(|part| libc::iovec {
            iov_base: part.buf.start().as_ptr().wrapping_add(part.from).cast(),
            iov_len: part.len,
        })
        .collect();
    skip(&whole, done)
}

/// `segments` without their first `done` bytes.
pub(crate) fn skip(segments: &[libc::iovec], mut done: usize) -> Vec<libc::iovec> {
    let mut rest = Vec::with_capacity(segments.len());
    for segment in segments {
        let behind = done.min(segment.iov_len);
        done -= behind;
        if behind < segment.iov_len {
            rest.push(libc::iovec {
                iov_base: segment.iov_base.wrapping_byte_add(behind),
                iov_len: segment.iov_len - behind,
            });
        }
    }
    rest
}

/// preadv(2) or pwritev(2).
pub(crate) fn vectored(
    file: &std::fs::File,
    op: Op,
    iovecs: &[libc::iovec],
    at: u64,
) -> io::Result<usize> {
    let (fd, n) = (file.as_raw_fd(), iovecs.len() as libc::c_int);
    // SAFETY: the callers build the iovecs from memory that they hold exclusively (read) or at
    // least shared (write) until this returns.
    let moved = unsafe {
        match op {
            Op::Read => libc::preadv(fd, iovecs.as_ptr(), n, at as libc::off_t),
            Op::Write => libc::pwritev(fd, iovecs.as_ptr(), n, at as libc::off_t),
        }
    };
    if moved < 0 { Err(io::Error::last_os_error()) } else { Ok(moved as usize) }
}
