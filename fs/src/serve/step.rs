//! The steps of a request: what takes it from one phase to the next.

use super::convert;
use super::dispatch::{self, Done};
use super::exchange::{Applied, Exchange, Prepared};
use super::lessons::Lesson;
use super::origin::Origin;
use crate::mutant::{self, Mutant};
use crate::ops::read::{Body, ReadArgs, Ready};
use crate::ops::{Answer, Caller, WriteArgs, Written};
use inflight_fuse::abi::WriteFlags;
use inflight_fuse::{Data, Operation, Payload, Reply, Request};
use inflight_gate::Decision;

/// Bytes that are done and answered at most.
pub(super) fn limit(decision: Decision) -> Option<usize> {
    match decision {
        Decision::Short(bytes) => Some(bytes as usize),
        _ => None,
    }
}

pub(super) fn received(mut origin: Origin, request: Request, limit: Option<usize>) -> Exchange {
    let nodeid = request.header.nodeid;
    let who = convert::caller(&request.header);
    match request.operation {
        Operation::Read(read) => {
            let sink = origin.sink.as_mut();
            let (splice, own) = sink.map_or((false, None), |s| (s.splices(), s.buffer()));
            let len = (read.size as usize).min(limit.unwrap_or(usize::MAX));
            let direct = read.flags as i32 & libc::O_DIRECT != 0;
            let args = ReadArgs { ino: nodeid, offset: read.offset, len, direct, splice };
            match origin.server.fs().read_prepare(&args, own) {
                Ok(prepared) => {
                    origin.note_path(prepared.way().name());
                    Exchange::Prepared(origin, Prepared::Read(prepared))
                }
                Err(errno) => origin.fail(errno),
            }
        }
        Operation::Write(write) => {
            let (args, mut data) = write_args(nodeid, write);
            data.truncate(limit.unwrap_or(usize::MAX));
            Exchange::Prepared(origin, Prepared::Write(args, who, data))
        }
        _ => {
            let lesson = Lesson::of(&origin.server, &request);
            let done = dispatch::serve(&origin.server, request);
            Lesson::learn(lesson, &origin.server, done.as_ref().map(|done| &done.reply).ok());
            match done {
                Ok(done) => Exchange::Applied(origin, Applied::Done(done)),
                Err(errno) => Exchange::Applied(origin, Applied::Done(Done::failed(errno))),
            }
        }
    }
}

pub(super) fn write_args(ino: u64, write: inflight_fuse::Write) -> (WriteArgs, Payload) {
    let flags = write.flags as i32;
    let cached = write.write_flags.contains(WriteFlags::CACHE);
    let args = WriteArgs {
        ino,
        offset: write.offset,
        direct: !cached && flags & libc::O_DIRECT != 0,
        append: flags & libc::O_APPEND != 0,
        cached,
        kill_suidgid: write.write_flags.contains(WriteFlags::KILL_SUIDGID),
    };
    (args, write.data)
}

pub(super) fn apply(origin: Origin, prepared: Prepared, limit: Option<usize>) -> Exchange {
    match prepared {
        Prepared::Read(read) => {
            let fs = origin.server.fs();
            let read = match limit {
                Some(len) => read.cut(fs, len),
                None => Ok(read),
            };
            match read.and_then(|read| read.apply(fs)) {
                Ok(applied) => Exchange::Applied(origin, Applied::Read(applied)),
                Err(errno) => origin.fail(errno),
            }
        }
        Prepared::Write(args, who, mut data) => {
            data.truncate(limit.unwrap_or(usize::MAX));
            let written = write(&origin, &args, who, &data);
            // The memory goes back before the answer is sent: a queue's entry needs it.
            drop(data);
            let done = dispatch::written(&origin.server, &args, written);
            Exchange::Applied(origin, Applied::Done(done))
        }
    }
}

pub(super) fn write(
    origin: &Origin,
    args: &WriteArgs,
    who: Caller,
    data: &Payload,
) -> Answer<Written> {
    let server = &origin.server;
    let overtaken = || server.fs().stats().writes() > origin.writes_before;
    if mutant::is(Mutant::DropQueuedWrite) && overtaken() {
        return Ok(Written { bytes: data.len(), allocated: false, privileges: false });
    }
    server.fs().write_by(who, args, data.as_slice())
}

pub(super) fn pipe(origin: Origin, applied: Applied, limit: Option<usize>) -> Exchange {
    match applied {
        Applied::Read(read) => {
            let read = match limit {
                Some(len) => read.cut(len),
                None => Ok(read),
            };
            match read.and_then(|read| read.pipe(origin.server.fs())) {
                Ok(ready) => {
                    origin.note_path(ready.way.name());
                    Exchange::Piped(origin, ready)
                }
                Err(errno) => origin.fail(errno),
            }
        }
        Applied::Done(mut done) => {
            if let Some(len) = limit {
                done.cut(len);
            }
            let Done { reply, before, after } = done;
            if let Some(notice) = before {
                notice.send(origin.server.kernel());
            }
            let outcome = dispatch::outcome(&reply);
            let server = origin.answer(reply, outcome, ());
            Exchange::Replied(after.map(|notice| (server, notice)))
        }
    }
}

pub(super) fn reply(origin: Origin, ready: Ready, limit: Option<usize>) -> Exchange {
    let ready = match limit {
        Some(len) => ready.cut(len),
        None => ready,
    };
    let len = ready.len();
    origin.server.fs().stats().read(ready.way, len);
    let (body, plan) = ready.into_parts();
    let data = match body {
        Body::Bytes(buffer) => Data::from(buffer),
        Body::Pipe(filled) => Data::Piped(filled),
    };
    let data = origin.hold_copying(data);
    origin.answer(Reply::Data(data), Ok(len as u64), plan);
    Exchange::Replied(None)
}
