//! Device I/O of an exchange that a queue's own ring does, so that the queue's thread waits for nothing and nobody is woken.

use super::dispatch::{self, Done};
use super::exchange::{Applied, Exchange, Prepared};
use super::origin::Origin;
use super::server::{Place, Server};
use crate::errno::Errno;
use crate::ops::overwrite::Overwrite;
use crate::ops::read::{self, Pending};
use crate::ops::{Caller, WriteArgs};
use inflight_dio::Buffer;
use inflight_fuse::channel::uring::Queue;
use inflight_fuse::{Operation, Payload, Request};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// An exchange that the device works on.
pub struct Flight {
    origin: Origin,
    work: Work,
}

enum Work {
    Read(Pending),
    Write(WriteArgs, Caller, Overwrite),
    /// Of this file.
    Fsync {
        ino: u64,
        data_only: bool,
    },
}

/// What the device is to do: `buffer.len()` bytes at byte `offset` of the image, or a flush.
pub(super) enum Transfer {
    FromImage { file: Arc<File>, buffer: Buffer, offset: u64 },
    ToImage { file: Arc<File>, buffer: Buffer, offset: u64 },
    Flush { file: Arc<File> },
}

impl Transfer {
    pub(super) fn into_buffer(self) -> Option<Buffer> {
        match self {
            Transfer::FromImage { buffer, .. } | Transfer::ToImage { buffer, .. } => Some(buffer),
            Transfer::Flush { .. } => None,
        }
    }
}

/// What became of an exchange.
#[allow(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(super) enum TakeOff {
    /// The next step is not one transfer.
    Stayed(Exchange),
    /// That step is made.
    Landed(Exchange),
    /// It goes on when the device is done.
    Flies,
}

/// Whether the next step moves data or flushes, so that it may be one transfer.
pub(super) fn is_transfer(exchange: &Exchange) -> bool {
    match exchange {
        Exchange::Received(_, request) => matches!(request.operation, Operation::Fsync(_)),
        Exchange::Prepared(..) => true,
        _ => false,
    }
}

/// Has the queue's ring make the next step if that is one transfer.
pub(super) fn take_off(exchange: Exchange, queue: &mut Queue) -> TakeOff {
    match exchange {
        Exchange::Received(origin, request) => sync_off(origin, request, queue),
        Exchange::Prepared(origin, Prepared::Read(read)) => read_off(origin, read, queue),
        Exchange::Prepared(origin, Prepared::Write(args, who, data)) => {
            write_off(origin, (args, who), data, queue)
        }
        other => TakeOff::Stayed(other),
    }
}

/// An FSYNC that is one flush.
fn sync_off(origin: Origin, request: Request, queue: &mut Queue) -> TakeOff {
    let own = |origin, request| TakeOff::Stayed(Exchange::Received(origin, request));
    let Operation::Fsync(fsync) = &request.operation else { return own(origin, request) };
    let (ino, data_only) = (request.header.nodeid, dispatch::is_data_only(fsync));
    let Some(file) = origin.server.fs().flush_only(ino, data_only) else {
        return own(origin, request);
    };
    let server = Arc::clone(&origin.server);
    let flight = Flight { origin, work: Work::Fsync { ino, data_only } };
    depart(&server, queue, flight, Transfer::Flush { file });
    TakeOff::Flies
}

fn read_off(origin: Origin, read: read::Prepared, queue: &mut Queue) -> TakeOff {
    // What lies in the page cache is copied from there at once; only the rest has to be waited for.
    let read = match read.apply_resident(origin.server.fs()) {
        Ok(applied) => return TakeOff::Landed(Exchange::Applied(origin, Applied::Read(applied))),
        Err(read) => read,
    };
    // Several reads are a worker's.
    let device_read = match read.into_device_read(origin.server.fs()) {
        Ok(device_read) => device_read,
        Err(read) => return TakeOff::Stayed(Exchange::Prepared(origin, Prepared::Read(read))),
    };
    let read::DeviceRead { pending, mut buffer, file, offset, len } = device_read;
    buffer.set_len(len);
    let server = Arc::clone(&origin.server);
    let flight = Flight { origin, work: Work::Read(pending) };
    depart(&server, queue, flight, Transfer::FromImage { file, buffer, offset });
    TakeOff::Flies
}

fn write_off(
    origin: Origin,
    (args, who): (WriteArgs, Caller),
    data: Payload,
    queue: &mut Queue,
) -> TakeOff {
    let file = origin.server.fs().io().file().map(Arc::clone);
    let own = |origin, data| {
        TakeOff::Stayed(Exchange::Prepared(origin, Prepared::Write(args, who, data)))
    };
    let begun = match data.is_whole_buffer() {
        true => Overwrite::begin(origin.server.fs(), &args, data.len()),
        false => None,
    };
    let Some((overwrite, file)) = begun.zip(file) else { return own(origin, data) };
    let buffer = match data.into_buffer() {
        Ok((buffer, _)) => buffer,
        Err(data) => return own(origin, data),
    };
    let (server, offset) = (Arc::clone(&origin.server), overwrite.offset());
    let flight = Flight { origin, work: Work::Write(args, who, overwrite) };
    depart(&server, queue, flight, Transfer::ToImage { file, buffer, offset });
    TakeOff::Flies
}

/// The ring takes it, or a worker where that takes no more.
fn depart(server: &Arc<Server>, queue: &mut Queue, flight: Flight, transfer: Transfer) {
    if let Some((flight, buffer)) = server.depart(queue, flight, transfer) {
        // As after one that did not begin: it is made by who can wait.
        flight.hand_over((buffer, Err(Errno::EAGAIN.into())));
    }
}

/// The memory of a transfer that is over, and its result.
type Ended = (Option<Buffer>, io::Result<usize>);

/// Whether a flush was made, whatever came of it: one that failed must not be repeated, for the next one says that all is well
/// (fsync(2)).
fn was_tried(result: &io::Result<usize>) -> bool {
    let errno = result.as_ref().err().and_then(io::Error::raw_os_error);
    !matches!(errno, Some(libc::EAGAIN | libc::EINTR | libc::ECANCELED))
}

impl Flight {
    /// The ring is done. What it left is a worker's.
    pub(super) fn arrive(self, (buffer, result): Ended, queue: &mut Queue) {
        let is_satisfied = match &self.work {
            Work::Read(pending) => pending.is_satisfied(&result),
            Work::Write(_, _, overwrite) => overwrite.is_satisfied(&result),
            Work::Fsync { .. } => was_tried(&result),
        };
        match is_satisfied {
            true => self.land((buffer, result)).run(Place::Queue(queue)),
            false => self.hand_over((buffer, result)),
        }
    }

    fn hand_over(self, ended: Ended) {
        let server = Arc::clone(&self.origin.server);
        server.workers().run(move || self.land(ended).run(Place::Worker));
    }

    fn land(self, (buffer, result): Ended) -> Exchange {
        let Flight { origin, work } = self;
        let server = Arc::clone(&origin.server);
        let fs = server.fs();
        let done = match (work, buffer) {
            (Work::Read(pending), Some(buffer)) => {
                return match pending.finish(fs, buffer, result) {
                    Ok(applied) => Exchange::Applied(origin, Applied::Read(applied)),
                    Err(errno) => origin.fail(errno),
                };
            }
            (Work::Write(args, who, overwrite), Some(mut buffer)) => {
                // A short transfer cut it; the payload is all there.
                buffer.set_len(overwrite.len());
                let written = overwrite.finish(who, buffer.as_slice(), &result);
                // The memory goes back before the answer is sent: the queue's entry needs it.
                drop(buffer);
                dispatch::written(&server, &args, written)
            }
            (Work::Fsync { ino, data_only }, _) => {
                let synced = match was_tried(&result) {
                    true => fs.flushed(result.map(drop)),
                    false => fs.fsync(ino, data_only),
                };
                dispatch::synced(&server, ino, synced).unwrap_or_else(Done::failed)
            }
            // The ring gives memory back that it was given.
            (_, None) => Done::failed(Errno::EIO),
        };
        Exchange::Applied(origin, Applied::Done(done))
    }
}
