//! Device I/O of an exchange that a queue's own ring does, so that the queue's thread waits for nothing and nobody is woken.

use super::dispatch;
use super::exchange::{Applied, Exchange, Origin, Prepared};
use super::server::{Place, Server};
use crate::ops::overwrite::Overwrite;
use crate::ops::read::{self, Pending};
use crate::ops::{Caller, WriteArgs};
use inflight_dio::Buffer;
use inflight_fuse::Payload;
use inflight_fuse::channel::uring::Queue;
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
}

/// Where a transfer goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    FromImage,
    ToImage,
}

/// What the device is to do: `buffer.len()` bytes at byte `offset` of the image.
pub(super) struct Transfer {
    pub(super) direction: Direction,
    pub(super) file: Arc<File>,
    pub(super) buffer: Buffer,
    pub(super) offset: u64,
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

/// Has the queue's ring make the next step if that is one transfer.
pub(super) fn take_off(exchange: Exchange, queue: &mut Queue) -> TakeOff {
    match exchange {
        Exchange::Prepared(origin, Prepared::Read(read)) => read_off(origin, read, queue),
        Exchange::Prepared(origin, Prepared::Write(args, who, data)) => {
            write_off(origin, (args, who), data, queue)
        }
        other => TakeOff::Stayed(other),
    }
}

fn read_off(origin: Origin, read: read::Prepared, queue: &mut Queue) -> TakeOff {
    let device_read = match read.into_device_read(origin.server.fs()) {
        Ok(device_read) => device_read,
        Err(read) => return TakeOff::Stayed(Exchange::Prepared(origin, Prepared::Read(read))),
    };
    let read::DeviceRead { pending, mut buffer, file, offset, len } = device_read;
    buffer.set_len(len);
    let server = Arc::clone(&origin.server);
    // What lies in the page cache is copied from there at once; only the rest has to be waited for.
    let is_there =
        pending.is_cached() && server.fs().io().read_resident(&file, &mut buffer, offset);
    let flight = Flight { origin, work: Work::Read(pending) };
    if is_there {
        return TakeOff::Landed(flight.land(buffer, Ok(len)));
    }
    let direction = Direction::FromImage;
    depart(&server, queue, flight, Transfer { direction, file, buffer, offset });
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
    depart(
        &server,
        queue,
        flight,
        Transfer { direction: Direction::ToImage, file, buffer, offset },
    );
    TakeOff::Flies
}

/// The ring takes it, or a worker where that takes no more.
fn depart(server: &Arc<Server>, queue: &mut Queue, flight: Flight, transfer: Transfer) {
    if let Some((flight, buffer)) = server.depart(queue, flight, transfer) {
        // As after a transfer of nothing: it is made by who can wait.
        flight.hand_over((buffer, Ok(0)));
    }
}

impl Flight {
    /// The ring is done. What it left is a worker's.
    pub(super) fn arrive(self, (buffer, result): (Buffer, io::Result<usize>), queue: &mut Queue) {
        let is_satisfied = match &self.work {
            Work::Read(pending) => pending.is_satisfied(&result),
            Work::Write(_, _, overwrite) => overwrite.is_satisfied(&result),
        };
        match is_satisfied {
            true => self.land(buffer, result).run(Place::Queue(queue)),
            false => self.hand_over((buffer, result)),
        }
    }

    fn hand_over(self, (buffer, result): (Buffer, io::Result<usize>)) {
        let server = Arc::clone(&self.origin.server);
        server.workers().run(move || self.land(buffer, result).run(Place::Worker));
    }

    fn land(self, mut buffer: Buffer, result: io::Result<usize>) -> Exchange {
        let Flight { origin, work } = self;
        let fs = Arc::clone(origin.server.fs());
        match work {
            Work::Read(pending) => match pending.finish(&fs, buffer, result) {
                Ok(applied) => Exchange::Applied(origin, Applied::Read(applied)),
                Err(errno) => origin.fail(errno),
            },
            Work::Write(args, who, overwrite) => {
                // A short transfer cut it; the payload is all there.
                buffer.set_len(overwrite.len());
                let written = overwrite.finish(who, buffer.as_slice(), &result);
                // The memory goes back before the answer is sent: the queue's entry needs it.
                drop(buffer);
                let done = dispatch::written(&origin.server, &args, written);
                Exchange::Applied(origin, Applied::Done(done))
            }
        }
    }
}
