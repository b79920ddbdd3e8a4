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

use super::damage;
use super::dispatch::{self, Done};
use super::flight::{self, TakeOff};
use super::notice::Notice;
use super::origin::Origin;
use super::server::{Place, Server};
use super::step::{self, limit};
use crate::errno::Errno;
use crate::ops::read::{self, Ready};
use crate::ops::{Caller, WriteArgs};
use inflight_fuse::{Payload, Request};
use inflight_gate::{Decision, Gate, Passage, Phase, Ticket};
use std::sync::Arc;

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
            (Self::Received(origin, request), _) => {
                step::received(origin, request, limit(decision))
            }
            (Self::Prepared(origin, prepared), _) => step::apply(origin, prepared, limit(decision)),
            (Self::Applied(origin, applied), _) => step::pipe(origin, applied, limit(decision)),
            (Self::Piped(origin, ready), _) => step::reply(origin, ready, limit(decision)),
            (Self::Replied(notice), _) => Self::Replied(notice),
        }
    }
}
