//! O_DIRECT reads and writes, one at a time or queued.

mod progress;
mod request;
mod ring_queue;
mod task;
mod worker_queue;

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use serde::Serialize;

use crate::buffer::Buffer;
use crate::file::DirectFile;
use crate::iter::{BestPins, IoIter, ReadOnly};
use crate::pool::Pool;
use crate::ring::Ring;
pub use request::{
    Completion, Done, Op, Part, Request, VectoredCompletion, VectoredDone, VectoredRequest,
};

use progress::{Progress, Step};
use ring_queue::RingQueue;
use task::{Finish, PARTS_MAX, Payload, Task, skip, vectored};
use worker_queue::WorkerQueue;

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
    pins: OnceLock<BestPins>,
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
        Ok(Self { queue, kind: QueueKind::Workers, pool: pool.clone(), pins: OnceLock::new() })
    }

    fn on_ring(pool: &Pool, ring: Arc<Ring>, kind: QueueKind) -> io::Result<Self> {
        let fixed = (kind == QueueKind::RingFixed).then(|| pool.clone());
        let queue = Queue::Ring(RingQueue::new(fixed, ring)?);
        Ok(Self { queue, kind, pool: pool.clone(), pins: OnceLock::new() })
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

    /// Reads from `offset` on into the memory of `iter`, in as few preadv(2) as it takes, and moves
    /// the iterator by the bytes read, which it returns. Less than remained only at the end of the
    /// file.
    ///
    /// The memory is extracted first: what is user-backed is pinned for the length of the call and
    /// released on every way out; what is ours is borrowed.
    ///
    /// # Errors
    /// `EINVAL` when offset, a length or an address is not aligned or the memory may only be read;
    /// else the error of preadv(2). The iterator then stands behind what is known to be through.
    pub fn read_iter(
        &self,
        file: &DirectFile,
        iter: &mut IoIter<'_>,
        offset: u64,
    ) -> io::Result<usize> {
        if !iter.is_writable() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, ReadOnly(iter.kind())));
        }
        self.iterate(file, Op::Read, iter, offset)
    }

    /// Writes the memory of `iter` from `offset` on, as [`Engine::read_iter`] reads.
    ///
    /// # Errors
    /// As [`Engine::read_iter`].
    pub fn write_iter(
        &self,
        file: &DirectFile,
        iter: &mut IoIter<'_>,
        offset: u64,
    ) -> io::Result<usize> {
        self.iterate(file, Op::Write, iter, offset)
    }

    fn iterate(
        &self,
        file: &DirectFile,
        op: Op,
        iter: &mut IoIter<'_>,
        offset: u64,
    ) -> io::Result<usize> {
        let align = file.alignment();
        let step = if op == Op::Read { align.read_offset } else { align.offset };
        check(offset, iter.remaining(), step, usize::MAX)?;
        let mut total = 0;
        while iter.remaining() > 0 {
            let batch = iter.extract(usize::MAX, PARTS_MAX, self.pins())?;
            let segments = batch.segments();
            if segments.iter().any(|s| {
                !(s.iov_base as usize).is_multiple_of(align.memory) || s.iov_len % step != 0
            }) {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            let (at, len) = (offset + total as u64, batch.len());
            let moved = transfer(op, len, step, |done| {
                vectored(file.file(), op, &skip(segments, done), at + done as u64)
            })?;
            drop(batch);
            iter.advance(moved);
            total += moved;
            if moved < len {
                break;
            }
        }
        Ok(total)
    }

    /// What pins user memory. Made when there is some to pin: the pool's needs none.
    fn pins(&self) -> &BestPins {
        self.pins.get_or_init(BestPins::new)
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
    if len > room
        || end.is_none()
        || !offset.is_multiple_of(step as u64)
        || !len.is_multiple_of(step)
    {
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
