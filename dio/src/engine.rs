//! O_DIRECT reads and writes, one at a time or queued.

mod progress;
mod ring_queue;
mod task;
mod worker_queue;

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use serde::Serialize;

use crate::buffer::Buffer;
use crate::file::DirectFile;
use crate::pool::Pool;
use crate::ring::Ring;
use progress::{Progress, Step};
use ring_queue::RingQueue;
use task::{Finish, Payload, Task};
use worker_queue::WorkerQueue;

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

/// What serves the queue of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueKind {
    /// io_uring with the pool's slabs as fixed buffers.
    RingFixed,
    /// io_uring without fixed buffers: the pool's registration was refused or is another engine's.
    Ring,
    /// Threads that pread and pwrite: io_uring was refused.
    Workers,
}

/// The O_DIRECT engine.
///
/// A transfer is complete, or ends at the end of the file, or is an error: short counts are
/// continued at the aligned remainder, `EINTR` and `EAGAIN` are tried again, and what the device
/// says (`EIO`, `ENOSPC`) is what the caller gets, even if part of the bytes had gone through. What
/// is not aligned is `EINVAL` before the kernel sees it.
///
/// Dropping the engine waits for what is in flight.
pub struct Engine {
    queue: Queue,
    kind: QueueKind,
    pool: Pool,
}

enum Queue {
    Ring(RingQueue),
    Workers(WorkerQueue),
}

/// Threads of the fallback queue: enough to keep a device busy (16 threads gave 0.8 of QD16).
const WORKERS: usize = 16;

impl Engine {
    /// An engine on the registration of `pool`, or the best that is not refused.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(pool: &Pool) -> io::Result<Self> {
        if let Some(ring) = pool.ring().filter(|ring| ring.claim()) {
            let kind = if ring.registered() > 0 { QueueKind::RingFixed } else { QueueKind::Ring };
            return Self::on_ring(pool, Arc::clone(ring), kind);
        }
        match Ring::new() {
            Ok(ring) => {
                ring.claim();
                Self::on_ring(pool, Arc::new(ring), QueueKind::Ring)
            }
            Err(_) => Self::with_workers(pool, WORKERS),
        }
    }

    /// An engine that does without io_uring, with `workers` threads for its queue.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn with_workers(pool: &Pool, workers: usize) -> io::Result<Self> {
        let queue = Queue::Workers(WorkerQueue::new(workers)?);
        Ok(Self { queue, kind: QueueKind::Workers, pool: pool.clone() })
    }

    fn on_ring(pool: &Pool, ring: Arc<Ring>, kind: QueueKind) -> io::Result<Self> {
        let fixed = (kind == QueueKind::RingFixed).then(|| pool.clone());
        let queue = Queue::Ring(RingQueue::new(fixed, ring)?);
        Ok(Self { queue, kind, pool: pool.clone() })
    }

    /// What serves the queue.
    pub fn queue_kind(&self) -> QueueKind {
        self.kind
    }

    /// The pool whose memory this engine knows best.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Reads `len` bytes at `offset` into the start of `buf` and returns buffer and count. The
    /// buffer's length becomes the count.
    ///
    /// # Errors
    /// `EINVAL` for what is not aligned or does not fit, else the error of pread(2).
    pub fn read_at(
        &self,
        file: &DirectFile,
        mut buf: Buffer,
        offset: u64,
        len: usize,
    ) -> (Buffer, io::Result<usize>) {
        let step = file.alignment().read_offset;
        if let Err(e) = check(offset, len, step, buf.capacity()) {
            return (buf, Err(e));
        }
        buf.set_len(len);
        let memory = buf.as_mut_slice();
        let result = transfer(Op::Read, len, step, |done| {
            file.file().read_at(&mut memory[done..], offset + done as u64)
        });
        if let Ok(n) = result {
            buf.set_len(n);
        }
        (buf, result)
    }

    /// Writes the first `len` bytes of `buf` at `offset` and returns buffer and count.
    ///
    /// # Errors
    /// `EINVAL` for what is not aligned or longer than the buffer, else the error of pwrite(2).
    pub fn write_at(
        &self,
        file: &DirectFile,
        buf: Buffer,
        offset: u64,
        len: usize,
    ) -> (Buffer, io::Result<usize>) {
        let step = file.alignment().offset;
        if let Err(e) = check(offset, len, step, buf.len()) {
            return (buf, Err(e));
        }
        let memory = &buf.as_slice()[..len];
        let result = transfer(Op::Write, len, step, |done| {
            file.file().write_at(&memory[done..], offset + done as u64)
        });
        (buf, result)
    }

    /// Queues a transfer. `done` gets the buffer back, whatever happens.
    pub fn submit(&self, request: Request, done: Done) {
        if let Some(task) = task_of(request, done) {
            self.queue([task]);
        }
    }

    /// Queues many transfers and enters the kernel once.
    pub fn submit_batch(&self, requests: impl IntoIterator<Item = (Request, Done)>) {
        let tasks: Vec<_> = requests.into_iter().filter_map(|(r, done)| task_of(r, done)).collect();
        self.queue(tasks);
    }

    /// Queues a transfer between one file range and a list of memory ranges.
    pub fn submit_vectored(&self, request: VectoredRequest, done: VectoredDone) {
        let VectoredRequest { file, parts, offset, op } = request;
        let finish: Finish = Box::new(move |payload, result| match payload {
            Payload::Many(parts) => done(VectoredCompletion { parts, result }),
            Payload::One(..) => unreachable!("a vectored request stays one"),
        });
        if let Some(task) = accept(Task::new(file, op, offset, Payload::Many(parts), finish)) {
            self.queue([task]);
        }
    }

    fn queue(&self, tasks: impl IntoIterator<Item = Task>) {
        match &self.queue {
            Queue::Ring(ring) => ring.submit(tasks),
            Queue::Workers(workers) => workers.submit(tasks),
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("queue", &self.kind).finish_non_exhaustive()
    }
}

fn task_of(request: Request, done: Done) -> Option<Task> {
    let Request { file, buf, offset, len, op } = request;
    let finish: Finish = Box::new(move |payload, result| match payload {
        Payload::One(buf, _) => done(Completion { buf, result }),
        Payload::Many(_) => unreachable!("a plain request stays one"),
    });
    accept(Task::new(file, op, offset, Payload::One(buf, len), finish))
}

/// The task, or nothing after its memory went back with the refusal.
fn accept(task: Result<Task, (Payload, io::Error, Finish)>) -> Option<Task> {
    match task {
        Ok(task) => Some(task),
        Err((payload, e, finish)) => {
            finish(payload, Err(e));
            None
        }
    }
}

fn check(offset: u64, len: usize, step: usize, room: usize) -> io::Result<()> {
    let end = offset.checked_add(len as u64).filter(|&end| end <= i64::MAX as u64);
    if len > room || end.is_none() || offset % step as u64 != 0 || len % step != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(())
}

/// Attempts until the transfer is over. `attempt` gets the number of bytes that are through.
fn transfer(
    op: Op,
    len: usize,
    step: usize,
    mut attempt: impl FnMut(usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut progress = Progress::new(op, len, step);
    loop {
        let result = attempt(progress.done());
        if let Step::Finished(result) = progress.advance(result) {
            return result;
        }
    }
}
