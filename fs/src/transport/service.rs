//! A request's way: gate, operation, gate, reply.
//!
//! A transport hands over what to do and how to reply, both owned, so that the gate can put the
//! request aside at any phase without holding the transport's thread.

use crate::errno::Errno;
use crate::mutant::{self, Mutant};
use crate::ops::read::{Prepared, ReadArgs, Ready};
use crate::ops::{Answer, Fs, WriteArgs, Written};
use inflight_gate::{Decision, Gate, Passage, Phase, Subject, Ticket};
use std::sync::Arc;
use std::time::Instant;

/// The filesystem with its gate, if it has one.
#[derive(Clone)]
pub struct Service {
    fs: Arc<Fs>,
    gate: Option<Arc<Gate>>,
}

/// A request on its way.
struct Trip {
    fs: Arc<Fs>,
    operation: &'static str,
    since: Instant,
}

impl Trip {
    fn end(self) {
        self.fs.stats().end(self.operation, self.since.elapsed());
    }
}

impl Service {
    /// A service over `fs`.
    pub fn new(fs: Arc<Fs>, gate: Option<Arc<Gate>>) -> Service {
        Service { fs, gate }
    }

    /// The filesystem.
    pub fn fs(&self) -> &Arc<Fs> {
        &self.fs
    }

    /// True when requests may be parked, so that everything a request needs must be owned.
    pub fn is_gated(&self) -> bool {
        self.gate.is_some()
    }

    fn arrive(&self, subject: Subject) -> (Trip, Option<Ticket>) {
        self.fs.stats().begin();
        let operation = subject.opcode.name().unwrap_or("unknown");
        let trip = Trip { fs: self.fs.clone(), operation, since: Instant::now() };
        (trip, self.gate.as_ref().map(|gate| gate.arrive(subject)))
    }

    /// Serves a request that is done in one step. `bytes` counts the answer for the log.
    pub fn serve<T: Send + 'static>(
        &self,
        subject: Subject,
        operation: impl FnOnce(&Fs) -> Answer<T> + Send + 'static,
        reply: impl FnOnce(Answer<T>) + Send + 'static,
    ) {
        let (trip, ticket) = self.arrive(subject);
        pass(ticket, Phase::Received, move |ticket, decision| {
            let answer = match decision {
                Decision::Go | Decision::Short(_) => operation(&trip.fs),
                Decision::Fail(errno) => Err(Errno::from_raw(errno)),
                Decision::Drop => return never(trip, reply),
            };
            applied(trip, ticket, answer, |_| 0, reply);
        });
    }

    /// Serves a write whose payload is owned.
    pub fn write(
        &self,
        subject: Subject,
        args: WriteArgs,
        mut payload: Vec<u8>,
        reply: impl FnOnce(Answer<Written>) + Send + 'static,
    ) {
        let (trip, ticket) = self.arrive(subject);
        let expected = Written { bytes: payload.len(), allocated: false, privileges: false };
        let reply = in_time(reply, &|| Ok(expected));
        let before = trip.fs.stats().writes();
        pass(ticket, Phase::Received, move |ticket, decision| {
            match decision {
                Decision::Go => {}
                Decision::Short(n) => payload.truncate(n as usize),
                Decision::Fail(errno) => {
                    return answer(trip, ticket, Err(Errno::from_raw(errno)), |_| 0, reply);
                }
                Decision::Drop => return never(trip, reply),
            }
            let mut buf = trip.fs.io().pool().take(payload.len());
            buf.set_len(payload.len());
            buf.as_mut_slice().copy_from_slice(&payload);
            drop(payload);
            pass(ticket, Phase::Prepared, move |ticket, decision| {
                match decision {
                    Decision::Go => {}
                    Decision::Short(n) => buf.truncate(buf.len().min(n as usize)),
                    Decision::Fail(errno) => {
                        return answer(trip, ticket, Err(Errno::from_raw(errno)), |_| 0, reply);
                    }
                    Decision::Drop => return never(trip, reply),
                }
                let overtaken = || trip.fs.stats().writes() > before;
                let written = if mutant::is(Mutant::DropQueuedWrite) && overtaken() {
                    Ok(expected)
                } else {
                    trip.fs.write(&args, buf.as_slice())
                };
                drop(buf);
                applied(trip, ticket, written, |w| w.bytes as u64, reply);
            });
        });
    }

    /// Serves a write at once, out of the transport's own buffer; only without a gate.
    pub fn write_now(&self, subject: Subject, args: &WriteArgs, payload: &[u8]) -> Answer<Written> {
        debug_assert!(!self.is_gated());
        let (trip, _) = self.arrive(subject);
        let written = self.fs.write(args, payload);
        trip.end();
        written
    }

    /// Serves a read. `reply` sends what is ready and says how it went.
    pub fn read(
        &self,
        subject: Subject,
        args: ReadArgs,
        reply: impl FnOnce(Answer<Ready>) + Send + 'static,
    ) {
        let (trip, ticket) = self.arrive(subject);
        pass(ticket, Phase::Received, move |ticket, decision| {
            let len = match decision {
                Decision::Go => args.len,
                Decision::Short(n) => args.len.min(n as usize),
                Decision::Fail(errno) => {
                    return failed(trip, ticket, Errno::from_raw(errno), reply);
                }
                Decision::Drop => return never(trip, reply),
            };
            match trip.fs.read_prepare(&ReadArgs { len, ..args }) {
                Ok(prepared) => read_prepared(trip, ticket, prepared, reply),
                Err(e) => failed(trip, ticket, e, reply),
            }
        });
    }
}

fn read_prepared(
    trip: Trip,
    mut ticket: Option<Ticket>,
    prepared: Prepared,
    reply: impl FnOnce(Answer<Ready>) + Send + 'static,
) {
    ticket.note_path(prepared.way().name());
    pass(ticket, Phase::Prepared, move |ticket, decision| {
        let prepared = match decision {
            Decision::Go => Ok(prepared),
            Decision::Short(n) => prepared.cut(&trip.fs, n as usize),
            Decision::Fail(errno) => Err(Errno::from_raw(errno)),
            Decision::Drop => return never(trip, reply),
        };
        let applied = match prepared.and_then(|prepared| prepared.apply(&trip.fs)) {
            Ok(applied) => applied,
            Err(e) => return failed(trip, ticket, e, reply),
        };
        pass(ticket, Phase::Applied, move |ticket, decision| {
            let piped = match decision {
                Decision::Go => applied.pipe(&trip.fs),
                Decision::Short(n) => {
                    applied.cut(&trip.fs, n as usize).and_then(|a| a.pipe(&trip.fs))
                }
                Decision::Fail(errno) => Err(Errno::from_raw(errno)),
                Decision::Drop => return never(trip, reply),
            };
            match piped {
                Ok(ready) => read_piped(trip, ticket, ready, reply),
                Err(e) => failed(trip, ticket, e, reply),
            }
        });
    });
}

fn read_piped(
    trip: Trip,
    mut ticket: Option<Ticket>,
    ready: Ready,
    reply: impl FnOnce(Answer<Ready>) + Send + 'static,
) {
    ticket.note_path(ready.way.name());
    pass(ticket, Phase::Piped, move |ticket, decision| {
        let ready = match decision {
            Decision::Go => Ok(ready),
            Decision::Short(n) => ready.cut(&trip.fs, n as usize),
            Decision::Fail(errno) => Err(Errno::from_raw(errno)),
            Decision::Drop => return never(trip, reply),
        };
        if let Ok(ready) = &ready {
            trip.fs.stats().read(ready.way, ready.len());
        }
        answer(trip, ticket, ready, |ready| ready.len() as u64, reply);
    });
}

/// The reply for when all is done. [`Mutant::ReplyBeforeApply`] sends what it expects at once.
pub(super) fn in_time<T, R: FnOnce(Answer<T>) + Send + 'static>(
    reply: R,
    expected: &dyn Fn() -> Answer<T>,
) -> impl FnOnce(Answer<T>) + Send + 'static + use<T, R> {
    let mut reply = Some(reply);
    if mutant::is(Mutant::ReplyBeforeApply)
        && let Some(reply) = reply.take()
    {
        reply(expected());
    }
    move |answer| {
        if let Some(reply) = reply {
            reply(answer);
        }
    }
}

/// The operation is done; the gate may still hold the reply.
fn applied<T: Send + 'static>(
    trip: Trip,
    ticket: Option<Ticket>,
    result: Answer<T>,
    bytes: impl FnOnce(&T) -> u64 + Send + 'static,
    reply: impl FnOnce(Answer<T>) + Send + 'static,
) {
    pass(ticket, Phase::Applied, move |ticket, decision| match decision {
        Decision::Go | Decision::Short(_) => answer(trip, ticket, result, bytes, reply),
        Decision::Fail(errno) => answer(trip, ticket, Err(Errno::from_raw(errno)), bytes, reply),
        Decision::Drop => never(trip, reply),
    });
}

fn failed<T>(trip: Trip, ticket: Option<Ticket>, errno: Errno, reply: impl FnOnce(Answer<T>)) {
    answer(trip, ticket, Err(errno), |_| 0, reply);
}

fn answer<T>(
    trip: Trip,
    ticket: Option<Ticket>,
    result: Answer<T>,
    bytes: impl FnOnce(&T) -> u64,
    reply: impl FnOnce(Answer<T>),
) {
    let outcome = result.as_ref().map(bytes).map_err(|e| *e as i32);
    ticket.answers();
    reply(result);
    trip.end();
    ticket.done(outcome);
}

/// The request gets no answer, ever: dropping `reply` would send one.
fn never<R>(trip: Trip, reply: R) {
    std::mem::forget(reply);
    trip.end();
}

/// A request and what is to be done next.
struct Held {
    ticket: Ticket,
    next: Box<dyn FnOnce(Option<Ticket>, Decision) + Send>,
}

impl Passage for Held {
    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    fn resume(self: Box<Self>, decision: Decision) {
        (self.next)(Some(self.ticket), decision);
    }
}

fn pass<F>(ticket: Option<Ticket>, phase: Phase, next: F)
where
    F: FnOnce(Option<Ticket>, Decision) + Send + 'static,
{
    let Some(ticket) = ticket else { return next(None, Decision::Go) };
    let held = Held { ticket, next: Box::new(next) };
    if let Some((held, decision)) = Gate::pass(held, phase) {
        (held.next)(Some(held.ticket), decision);
    }
}

trait Finish {
    fn note_path(&mut self, path: &'static str);
    fn answers(&self);
    fn done(self, result: Result<u64, i32>);
}

impl Finish for Option<Ticket> {
    fn note_path(&mut self, path: &'static str) {
        self.iter().for_each(|ticket| ticket.note_path(path));
    }

    fn answers(&self) {
        self.iter().for_each(Ticket::answers);
    }

    fn done(self, result: Result<u64, i32>) {
        if let Some(ticket) = self {
            ticket.done(result);
        }
    }
}
