//! The windows in the kernel: requests that nobody has read yet, and requests whose record begins before they are received.
//!
//! A rule at [`Phase::Queued`] shuts the [`Intake`] of the channel when it is made. When something waits there, a record is
//! opened and parked in its place; when that is released, what is read first is compared with the rule and takes the record
//! over. If it is another request, the record says that it was overtaken; if nothing is there any more, that it was withdrawn.

use std::io;
use std::sync::{Arc, Weak};

use inflight_fuse::abi::{InHeader, Opcode};
use inflight_fuse::channel::Intake;
use inflight_fuse::channel::intake::Watcher;

use crate::armed::Armed;
use crate::state::{Parked, State};
use crate::{Action, Gate, GateError, Phase, ReleasedBy, Subject, Ticket};

/// The rule at `queued` that is in force.
#[derive(Debug)]
pub(super) struct Queue {
    rule: u64,
    armed: Armed,
    /// Something waited, and is parked.
    has_waited: bool,
    /// The record of what is read first, after its release.
    ticket: Option<Ticket>,
}

/// A record that was opened before its request was received.
#[derive(Debug)]
pub(super) struct Early {
    pub ticket: Ticket,
    /// What the request has to match, if that is not known yet.
    pub meant: Option<Armed>,
}

/// Tells a gate what is seen at its intake. The gate owns the intake, and must not own itself.
struct Sentry(Weak<Gate>);

impl Watcher for Sentry {
    fn waits(&self) {
        if let Some(gate) = self.0.upgrade() {
            gate.waits();
        }
    }

    fn first(&self, taken: Option<InHeader>) {
        if let Some(gate) = self.0.upgrade() {
            gate.first(taken);
        }
    }
}

impl Gate {
    /// A new intake for the channel that requests come by, which is watched: [`Gate::guard`].
    ///
    /// # Errors
    /// eventfd(2).
    pub fn intake(&self) -> io::Result<Arc<Intake>> {
        let intake = Arc::new(Intake::new()?);
        self.guard(&intake);
        Ok(intake)
    }

    /// With the intake of the channel that requests come by, the gate has the phases in the kernel ([`Phase::KERNEL`]).
    /// The first one counts.
    pub fn guard(&self, intake: &Arc<Intake>) {
        intake.watch(Box::new(Sentry(Weak::clone(&self.me))));
        let _ = self.windows.set(Ok(Arc::clone(intake)));
    }

    /// Says why there are no phases in the kernel here, for whoever asks for one.
    pub fn has_no_intake(&self, why: &str) {
        let _ = self.windows.set(Err(why.to_owned()));
    }

    /// The intake, for a rule that needs it.
    pub(super) fn window(&self, phase: Phase) -> Result<Arc<Intake>, GateError> {
        match self.windows.get() {
            Some(Ok(intake)) => Ok(Arc::clone(intake)),
            Some(Err(why)) => Err(GateError::Refused(format!("no phase '{phase}' here: {why}"))),
            None => Err(GateError::Refused(format!(
                "no phase '{phase}' here: this server does not receive by /dev/fuse through its gate"
            ))),
        }
    }

    /// Shuts the intake for a rule that is in force now.
    pub(super) fn shut(&self, rule: u64) -> Result<(), GateError> {
        let intake = self.window(Phase::Queued)?;
        if intake.shut() {
            // It may have ended meanwhile, when there was nothing to open.
            if !self.state.lock().rules.contains_key(&rule) {
                intake.open();
            }
            return Ok(());
        }
        let mut state = self.state.lock();
        state.rules.remove(&rule);
        state.queue = None;
        Err(GateError::Refused(
            "the server cannot stop receiving: a request is being copied just now".to_owned(),
        ))
    }

    /// Opens the intake when the rule that shut it is gone and nothing that waited is parked.
    pub(super) fn open_what_no_rule_shuts(&self) {
        let Some(Ok(intake)) = self.windows.get() else { return };
        let mut state = self.state.lock();
        if state.is_shut_by_no_rule() {
            // With somebody at the intake, its report ends the queue.
            if !intake.open() {
                state.queue = None;
            }
        }
        if state.is_trapped_by_no_rule() {
            state.trap = None;
            intake.set_trap(None);
        }
    }

    /// Something waits at the shut intake.
    fn waits(self: &Arc<Self>) {
        let now_ns = self.now_ns();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(queue) = &mut state.queue else { return };
        let (rule, Some(armed)) = (queue.rule, state.rules.get(&queue.rule)) else { return };
        let due_ns = match armed.rule.action {
            Action::Delay(ms) => Some(now_ns + ms * 1_000_000),
            _ => None,
        };
        queue.has_waited = true;
        let subject = Subject::default();
        let seq = state.log.arrive(&subject, now_ns);
        if let Some(record) = state.log.open(seq) {
            record.times.reach(Phase::Queued, now_ns);
        }
        let ticket = Ticket::new(Arc::clone(self), seq, subject.clone());
        let request = Box::new(move |_| Gate::read_on(ticket));
        let (phase, since_ns, dropped) = (Phase::Queued, now_ns, false);
        state.park(seq, Parked { rule, phase, since_ns, due_ns, subject, request, dropped });
        drop(guard);
        self.changed.notify_all();
        self.alarm.notify_all();
    }

    /// What waited is released: its ticket is for what is read first.
    fn read_on(ticket: Ticket) {
        let gate = Arc::clone(ticket.gate());
        let mut state = gate.state.lock();
        let Some(queue) = &mut state.queue else {
            drop(state);
            // The connection is over.
            return ticket.withdraw();
        };
        queue.ticket = Some(ticket);
        drop(state);
        let opens = gate.windows.get().and_then(|windows| windows.as_ref().ok());
        if !opens.is_some_and(|intake| intake.open()) {
            gate.first(None);
        }
    }

    /// The intake was opened, and this was read first.
    fn first(&self, taken: Option<InHeader>) {
        let mut state = self.state.lock();
        let Some(Queue { armed, ticket: Some(ticket), .. }) = state.queue.take() else { return };
        let is_asked = |header: &InHeader| {
            let opcode = Opcode(header.opcode);
            opcode.wants_answer() && !matches!(opcode, Opcode::INTERRUPT | Opcode::DESTROY)
        };
        match taken {
            Some(header) if is_asked(&header) => {
                let early = Early { ticket, meant: Some(armed) };
                let other = state.early.insert(header.unique, early);
                drop(state);
                other.into_iter().for_each(|early| early.ticket.withdraw());
            }
            // Nobody waits for an answer to it: read, it is over.
            Some(header) if Opcode(header.opcode) == Opcode::NOTIFY_REPLY => {
                let subject = Subject {
                    unique: header.unique,
                    opcode: Opcode::NOTIFY_REPLY,
                    ino: header.nodeid,
                    ..Subject::default()
                };
                let is_meant = armed.matches(&subject, &state.names);
                state.log.describe(ticket.seq(), &subject);
                drop(state);
                if is_meant { ticket.done(Ok(0)) } else { self.overtaken(ticket) }
            }
            Some(_) => {
                drop(state);
                self.overtaken(ticket);
            }
            None => {
                drop(state);
                ticket.withdraw();
            }
        }
    }

    /// A request that the gate's log does not have was received.
    pub fn unlogged(&self, unique: u64) {
        let early = self.state.lock().early.remove(&unique);
        early.into_iter().for_each(|early| self.overtaken(early.ticket));
    }

    /// Another request than was meant was in front.
    pub(super) fn overtaken(&self, ticket: Ticket) {
        self.note(ticket.seq(), |record| {
            record.holds.iter_mut().for_each(|hold| hold.by = Some(ReleasedBy::Overtaken));
        });
        ticket.withdraw();
    }

    /// Gives up what was never received, when nothing can be any more.
    pub(super) fn give_up_early(&self) {
        let mut state = self.state.lock();
        let queued = state.queue.take().and_then(|queue| queue.ticket);
        let early = std::mem::take(&mut state.early);
        drop(state);
        queued.into_iter().for_each(Ticket::withdraw);
        early.into_values().for_each(|early| early.ticket.withdraw());
    }
}

impl State {
    /// Takes a rule at `queued` up. One at a time: nothing tells apart what waits.
    pub(super) fn begin_queue(&mut self, rule: u64, armed: &Armed) -> Result<(), GateError> {
        if self.queue.is_some() {
            let text = "another rule holds 'queued': end it first".to_owned();
            return Err(GateError::Refused(text));
        }
        self.queue = Some(Queue { rule, armed: armed.clone(), has_waited: false, ticket: None });
        Ok(())
    }

    /// The ticket that was opened for this request before it was received, or the one of a request that it overtook.
    pub(super) fn claim(&mut self, subject: &Subject) -> Claim {
        let Some(Early { mut ticket, meant }) = self.early.remove(&subject.unique) else {
            return Claim::Nothing;
        };
        if meant.as_ref().is_some_and(|armed| !armed.matches(subject, &self.names)) {
            return Claim::Overtaken(ticket);
        }
        if let Some(armed) = meant {
            let rule = self.log.open(ticket.seq()).and_then(|record| record.holds.first());
            let rule = rule.map(|hold| hold.rule);
            debug_assert_eq!(armed.rule.phase, Phase::Queued);
            if let Some(armed) = rule.and_then(|rule| self.rules.get_mut(&rule)) {
                (armed.matched, armed.acted) = (armed.matched + 1, armed.acted + 1);
            }
            self.log.describe(ticket.seq(), subject);
        }
        ticket.describe(subject.clone());
        Claim::Ticket(ticket)
    }

    fn is_shut_by_no_rule(&self) -> bool {
        self.queue
            .as_ref()
            .is_some_and(|queue| !queue.has_waited && !self.rules.contains_key(&queue.rule))
    }

    fn is_trapped_by_no_rule(&self) -> bool {
        self.trap.is_some_and(|rule| !self.rules.contains_key(&rule))
    }

    /// Whether something in the kernel still waits for a rule that is gone.
    pub(super) fn is_left_by_rules(&self) -> bool {
        self.is_shut_by_no_rule() || self.is_trapped_by_no_rule()
    }
}

/// What is known of a request before it is received.
pub(super) enum Claim {
    Nothing,
    Ticket(Ticket),
    Overtaken(Ticket),
}
