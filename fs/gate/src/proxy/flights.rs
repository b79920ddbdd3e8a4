//! Requests on their way: those that have not gone to the server yet, and those that it has.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::SyncSender;

use inflight_fuse::abi::UNIQUE_RESEND;
use inflight_fuse::channel::pair::Answer;

use super::names::Lesson;
use super::passage::Inward;
use super::pieces::Manner;
use crate::Ticket;

/// In the numbers of the proxy's own requests, where the kernel's have no bit (it counts up from 2).
const OWN: u64 = 1 << 62;

/// A request that the server has.
#[derive(Debug)]
pub(super) struct Flight {
    /// Its way through the gate; none for INIT.
    pub ticket: Option<Ticket>,
    /// What its answer will tell.
    pub lesson: Option<Lesson>,
    /// Whether other READs wait for its answer.
    pub blocks: bool,
    /// Bytes of data to answer at most.
    pub cut: Option<u32>,
}

/// One of a request's numbers: it is the same when it is sent again.
fn plain(unique: u64) -> u64 {
    unique & !UNIQUE_RESEND
}

/// The table. It is never locked while anything is sent.
#[derive(Debug)]
pub(super) struct Flights {
    /// Requests that the server does not have, parked or queued, and whether they were interrupted.
    here: HashMap<u64, bool>,
    there: HashMap<u64, Flight>,
    own: HashMap<u64, SyncSender<Answer>>,
    last_own: u64,
    /// How the server answers, and the READs that wait for that reason.
    pub manner: Manner,
    is_blocked: bool,
    queue: VecDeque<Inward>,
    is_closed: bool,
}

/// Whether a request goes to the server.
#[derive(Debug)]
pub(super) enum Departure {
    /// Now; an answer may come from here on.
    Goes {
        /// The request.
        inward: Inward,
        /// Whether the kernel wanted it interrupted meanwhile.
        is_interrupted: bool,
    },
    /// Later, after an answer.
    Queued,
    /// Never: the server is gone.
    Refused(Inward),
}

/// What becomes of an INTERRUPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// The server has the request: it is to be told.
    Pass,
    /// It does not have it yet, or not any more.
    Keep,
}

impl Flights {
    pub fn new() -> Flights {
        Flights {
            here: HashMap::new(),
            there: HashMap::new(),
            own: HashMap::new(),
            last_own: 0,
            manner: Manner::Unknown,
            is_blocked: false,
            queue: VecDeque::new(),
            is_closed: false,
        }
    }

    /// No answer will come any more. What is given back is to be dropped outside the lock: it logs itself.
    pub fn close(&mut self) -> (Vec<Flight>, VecDeque<Inward>) {
        self.is_closed = true;
        self.own.clear();
        let there = self.there.drain().map(|(_, flight)| flight).collect();
        (there, std::mem::take(&mut self.queue))
    }

    /// A request came.
    pub fn arrive(&mut self, unique: u64) {
        self.here.insert(plain(unique), false);
    }

    /// It will not go to the server.
    pub fn leave(&mut self, unique: u64) {
        self.here.remove(&plain(unique));
    }

    /// A request goes to the server, unless it is a READ of `size` bytes and has to wait for another one's
    /// answer.
    pub fn depart(&mut self, mut inward: Inward, size: Option<u32>) -> Departure {
        if self.is_closed {
            return Departure::Refused(inward);
        }
        let blocks = size.is_some_and(|size| self.manner.one_by_one(size));
        if blocks && self.is_blocked {
            self.queue.push_back(inward);
            return Departure::Queued;
        }
        self.is_blocked |= blocks;
        let is_interrupted = self.here.remove(&plain(inward.unique())).unwrap_or(false);
        let flight = Flight { blocks, ..inward.flight() };
        self.send(inward.unique(), flight);
        Departure::Goes { inward, is_interrupted }
    }

    /// From here on an answer may come.
    pub fn send(&mut self, unique: u64, flight: Flight) {
        self.there.insert(plain(unique), flight);
    }

    /// Its answer came. With it come the READs that waited for it and may go now.
    pub fn land(&mut self, unique: u64) -> (Option<Flight>, VecDeque<Inward>) {
        let flight = self.there.remove(&plain(unique));
        let mut next = VecDeque::new();
        if flight.as_ref().is_some_and(|flight| flight.blocks) {
            self.is_blocked = false;
            match self.manner {
                Manner::Whole => next = std::mem::take(&mut self.queue),
                _ => next.extend(self.queue.pop_front()),
            }
        }
        (flight, next)
    }

    /// Whether its answer is waited for.
    pub fn is_there(&self, unique: u64) -> bool {
        unique == 0 || self.there.contains_key(&plain(unique)) || self.own.contains_key(&unique)
    }

    /// An INTERRUPT for a request came.
    pub fn interrupt(&mut self, target: u64) -> Interrupt {
        match self.here.get_mut(&plain(target)) {
            Some(is_interrupted) => *is_interrupted = true,
            None if self.there.contains_key(&plain(target)) => return Interrupt::Pass,
            None => {}
        }
        Interrupt::Keep
    }

    /// A number for a request of the proxy's own; its answer goes to `sender`.
    pub fn ask(&mut self, sender: SyncSender<Answer>) -> u64 {
        self.last_own += 2;
        let unique = OWN | self.last_own;
        self.own.insert(unique, sender);
        unique
    }

    /// Who asked it, if the proxy did.
    pub fn asked(&mut self, unique: u64) -> Option<SyncSender<Answer>> {
        self.own.remove(&unique)
    }
}
