//! A request on its way.
//!
//! ```text
//! Received: nothing done            READ and WRITE go on to Prepared, the rest to Applied
//! Prepared: buffers taken, blocks pinned, no device I/O
//! Applied:  done, no answer made    READ goes on to Piped, the rest to Replied
//! Piped:    the data are ready for the channel
//! ```
//!
//! An exchange owns all that its next step needs, so parking it is moving it into the gate's table,
//! and any thread may make the step. Gated and ungated requests take the same steps.

use super::convert;
use super::damage;
use super::dispatch::{self, Done};
use super::flight::{self, TakeOff};
use super::lessons::Lesson;
use super::notice::{Notice, Outcome, failed};
use super::server::{Place, Server};
use super::sink::Sink;
use crate::errno::Errno;
use crate::mutant::{self, Mutant};
use crate::ops::flights::{Asked, Begun};
use crate::ops::read::{self, Body, ReadArgs, Ready};
use crate::ops::{Answer, Caller, WriteArgs, Written};
use inflight_fuse::abi::WriteFlags;
use inflight_fuse::{Data, Operation, Payload, Reply, Request};
use inflight_gate::{Decision, Gate, Passage, Phase, Ticket};
use std::sync::Arc;

/// Where a request came from, and where its answer goes.
pub struct Origin {
    pub(super) server: Arc<Server>,
    /// `None` when it was answered.
    sink: Option<Sink>,
    /// With a gate.
    ticket: Option<Ticket>,
    begun: Begun,
    /// Payloads that the image had when it came, for [`Mutant::DropQueuedWrite`].
    writes_before: u64,
}

/// What was prepared.
pub enum Prepared {
    /// Blocks and memory of a READ.
    Read(read::Prepared),
    /// A WRITE, and who writes.
    Write(WriteArgs, Caller, Payload),
}

/// What was done.
pub enum Applied {
    /// The data of a READ are there.
    Read(read::Applied),
    /// Everything else.
    Done(Done),
}

/// A request on its way: see the [module](self).
pub enum Exchange {
    /// Nothing is done.
    Received(Origin, Request),
    /// Buffers are taken and blocks pinned.
    Prepared(Origin, Prepared),
    /// The operation is done.
    Applied(Origin, Applied),
    /// The data of the answer are where the channel takes them.
    Piped(Origin, Ready),
    /// Answered, or never to be; and what the kernel is to be told then.
    Replied(Option<(Arc<Server>, Notice)>),
}

/// Places of a queue that requests which wait for others leave free.
const PLACES_KEPT: usize = 4;

/// Bytes of a WRITE that take no longer than a change of metadata.
const WRITE_SMALL: usize = 16 << 10;

/// What a step may have to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// Nothing but short locks.
    Nothing,
    /// The device, a flush, a range of a file that another one writes.
    Device,
    /// Other requests of this mount.
    Requests,
}

impl Origin {
    pub(super) fn new(
        server: Arc<Server>,
        sink: Sink,
        ticket: Option<Ticket>,
        asked: Asked,
    ) -> Origin {
        let begun = server.fs().stats().begin(asked);
        let queued = mutant::is(Mutant::DropQueuedWrite);
        let writes_before = if queued { server.fs().stats().writes() } else { 0 };
        Origin { server, sink: Some(sink), ticket, begun, writes_before }
    }

    pub(super) fn note_path(&self, path: &'static str) {
        if let Some(ticket) = &self.ticket {
            ticket.note_path(path);
        }
    }

    /// Whether the kernel may be stopped while it copies the answer.
    fn may_be_held_copying(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::may_be_held_copying)
    }

    /// Puts the data of an answer where the kernel is stopped while it copies them, if the gate says so.
    fn hold_copying(&self, data: Data) -> Data {
        let Some(ticket) = self.ticket.as_ref().filter(|ticket| ticket.may_be_held_copying())
        else {
            return data;
        };
        // What is in a pipe can be taken out once.
        let bytes = match data.to_vec() {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!("the data of an answer cannot be held: {error}");
                return data;
            }
        };
        match ticket.hold_copying(&bytes) {
            Some(held) => {
                ticket.note_path("copy");
                Data::Payload(Payload::from_memory(Box::new(held)))
            }
            None => Data::from(Payload::from(bytes)),
        }
    }

    /// Answers; `held` is what must last until the answer was taken.
    fn answer<T>(mut self, reply: Reply, outcome: Outcome, held: T) -> Arc<Server> {
        if let Some(ticket) = &self.ticket {
            ticket.answers();
        }
        if let Some(sink) = self.sink.take() {
            sink.send(reply);
        }
        drop(held);
        let (ticket, server) = (self.ticket.take(), Arc::clone(&self.server));
        drop(self);
        if let Some(ticket) = ticket {
            ticket.done(outcome);
        }
        server
    }

    pub(super) fn fail(self, errno: Errno) -> Exchange {
        self.answer(Reply::Error(errno), failed(errno), ());
        Exchange::Replied(None)
    }

    fn abandon(mut self) -> Exchange {
        if let Some(sink) = self.sink.take() {
            sink.abandon();
        }
        Exchange::Replied(None)
    }

    /// [`Mutant::ReplyBeforeApply`] answers what it expects at once.
    pub(super) fn answer_early(&mut self, request: &Request) {
        if mutant::is(Mutant::ReplyBeforeApply)
            && let Some(expected) = dispatch::expected(&self.server, request)
            && let Some(sink) = self.sink.take()
        {
            sink.send(expected);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.server.fs().stats().end(&self.begun);
    }
}

impl Passage for Exchange {
    fn ticket(&self) -> &Ticket {
        let ticket = self.origin().and_then(|origin| origin.ticket.as_ref());
        ticket.expect("only a request with a ticket is handed to the gate")
    }

    fn parks(&self) {
        let left = self.origin().and_then(|origin| origin.sink.as_ref()?.places_left());
        match left {
            Some(0) => tracing::warn!(
                "the last place of a core's queue is parked: whoever else asks on that core waits; \
                 mount with transport=dev to park more"
            ),
            Some(1) => tracing::warn!("a core's queue has one place left beside what is parked"),
            _ => {}
        }
    }

    fn resume(self: Box<Self>, decision: Decision) {
        self.step(decision).run(Place::Worker);
    }
}

impl Exchange {
    fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Received(origin, _)
            | Self::Prepared(origin, _)
            | Self::Applied(origin, _)
            | Self::Piped(origin, _) => Some(origin),
            Self::Replied(_) => None,
        }
    }

    fn phase(&self) -> Option<Phase> {
        match self {
            Self::Received(..) => Some(Phase::Received),
            Self::Prepared(..) => Some(Phase::Prepared),
            Self::Applied(..) => Some(Phase::Applied),
            Self::Piped(..) => Some(Phase::Piped),
            Self::Replied(_) => None,
        }
    }

    /// Goes on until it is answered, parked, or somebody else's.
    pub fn run(mut self, mut place: Place<'_>) {
        // It is a value of half a KiB: what does not concern it leaves it where it is.
        while let Some(phase) = self.phase() {
            let mut decision = Decision::Go;
            if self.origin().is_some_and(|origin| origin.ticket.is_some()) {
                let Some(passed) = Gate::pass(self, phase) else { return };
                (self, decision) = passed;
            }
            if let (Place::Queue(queue), Decision::Go) = (&mut place, decision)
                && flight::is_transfer(&self)
            {
                match flight::take_off(self, queue) {
                    TakeOff::Stayed(exchange) => self = exchange,
                    TakeOff::Landed(exchange) => {
                        self = exchange;
                        continue;
                    }
                    TakeOff::Flies => return,
                }
            }
            let wait = self.wait(decision);
            if wait == Wait::Requests && self.is_crowded() {
                self = self.without_waiting();
                continue;
            }
            if wait > place.patience() {
                return self.hand_over(decision);
            }
            if wait > Wait::Nothing || self.moves_data() {
                self.let_others_receive();
            }
            self = self.step(decision);
        }
        if let Self::Replied(Some((server, notice))) = self {
            server.tell(notice, &place);
        }
    }

    /// What the next step may have to wait for.
    fn wait(&self, decision: Decision) -> Wait {
        match decision {
            Decision::Fail(_) | Decision::Drop => return Wait::Nothing,
            // It goes all the way in one step.
            Decision::Torn(_) | Decision::Corrupt(_) => return Wait::Device,
            Decision::Go | Decision::Short(_) => {}
        }
        match self {
            Self::Received(origin, request) => dispatch::wait(origin.server.fs(), request),
            Self::Prepared(origin, Prepared::Write(args, _, data)) => {
                let waits = origin.server.fs().write_waits(args, data.len());
                if waits { Wait::Device } else { Wait::Nothing }
            }
            Self::Prepared(_, Prepared::Read(read)) if read.may_wait() => Wait::Device,
            Self::Applied(_, Applied::Done(done)) if done.before.is_some() => Wait::Device,
            Self::Piped(origin, _) if origin.may_be_held_copying() => Wait::Requests,
            _ => Wait::Nothing,
        }
    }

    /// Whether the next step moves file data that may be large, or not in memory.
    fn moves_data(&self) -> bool {
        match self {
            Self::Prepared(_, Prepared::Write(_, _, data)) => data.len() > WRITE_SMALL,
            Self::Prepared(..) | Self::Applied(_, Applied::Read(_)) | Self::Piped(..) => true,
            _ => false,
        }
    }

    fn let_others_receive(&self) {
        if let Some(sink) = self.origin().and_then(|origin| origin.sink.as_ref()) {
            sink.let_others_receive();
        }
    }

    /// Whether the queue that this request came by has hardly a place left: what it would wait for may
    /// be sent to the same queue, and would not get in.
    fn is_crowded(&self) -> bool {
        let left = self.origin().and_then(|origin| origin.sink.as_ref()?.places_left());
        left.is_some_and(|left| left < PLACES_KEPT)
    }

    /// What can be said without waiting for other requests.
    fn without_waiting(self) -> Exchange {
        match self {
            Self::Received(origin, request) => {
                let done = dispatch::serve_at_once(&origin.server, &request);
                let done = done.unwrap_or_else(Done::failed);
                Exchange::Applied(origin, Applied::Done(done))
            }
            other => other,
        }
    }

    /// Has a worker make the next step.
    pub(super) fn hand_over(self, decision: Decision) {
        let Some(server) = self.origin().map(|origin| Arc::clone(&origin.server)) else { return };
        server.workers().run(move || self.step(decision).run(Place::Worker));
    }

    /// Makes the next step.
    #[must_use]
    pub fn step(self, decision: Decision) -> Exchange {
        match (self, decision) {
            (
                Self::Received(origin, _)
                | Self::Prepared(origin, _)
                | Self::Applied(origin, _)
                | Self::Piped(origin, _),
                Decision::Fail(errno),
            ) => origin.fail(Errno::from_raw(errno)),
            (
                Self::Received(origin, _)
                | Self::Prepared(origin, _)
                | Self::Applied(origin, _)
                | Self::Piped(origin, _),
                Decision::Drop,
            ) => origin.abandon(),
            (Self::Received(origin, request), Decision::Torn(_) | Decision::Corrupt(_)) => {
                damage::serve(origin, request, decision)
            }
            (Self::Received(origin, request), _) => received(origin, request, limit(decision)),
            (Self::Prepared(origin, prepared), _) => apply(origin, prepared, limit(decision)),
            (Self::Applied(origin, applied), _) => pipe(origin, applied, limit(decision)),
            (Self::Piped(origin, ready), _) => reply(origin, ready, limit(decision)),
            (Self::Replied(notice), _) => Self::Replied(notice),
        }
    }
}

/// Bytes that are done and answered at most.
fn limit(decision: Decision) -> Option<usize> {
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

fn apply(origin: Origin, prepared: Prepared, limit: Option<usize>) -> Exchange {
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

fn pipe(origin: Origin, applied: Applied, limit: Option<usize>) -> Exchange {
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

fn reply(origin: Origin, ready: Ready, limit: Option<usize>) -> Exchange {
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
