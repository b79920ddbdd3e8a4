//! The gate itself: how requests come to it, wait, and go on.

mod control;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use inflight_fuse::channel::{Channel, Intake};
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use parking_lot::{Condvar, Mutex};

use super::copying::Copier;
use super::log::{Outcome, Record};
use super::names::Names;
use super::rule::Action;
use super::state::{Going, Parked, State, Waiting};
use super::window::Claim;
use super::{Decision, GateError, Passage, Phase, ReleasedBy, Subject, Ticket, server, watchdog};

/// Finds the node id of a path below the mount's root. Called outside every lock of the gate.
pub type Resolve = Box<dyn Fn(&Path) -> Option<u64> + Send + Sync>;

/// Answers what a client asks of the server behind the gate, in the words of that server; `None` when it does not know the
/// question. Called outside every lock of the gate.
pub type Ask = Box<dyn Fn(&str) -> Option<Result<String, String>> + Send + Sync>;

/// How long the end of a mount waits for those who hold its requests.
const LINGER: Duration = Duration::from_secs(2);

/// A gate: see the [module](super).
pub struct Gate {
    /// For threads of its own.
    pub(super) me: Weak<Gate>,
    socket: PathBuf,
    resolve: Resolve,
    phases: &'static [Phase],
    ask: OnceLock<Ask>,
    start_ns: u64,
    listener: UnixListener,
    pub(super) state: Mutex<State>,
    /// Something changed that a client may wait for.
    pub(super) changed: Condvar,
    /// A deadline came closer, or the gate closed.
    pub(super) alarm: Condvar,
    /// The way to the kernel, for notifications.
    pub(super) channel: Mutex<Option<Channel>>,
    /// Where requests come from, or why it cannot be shut.
    pub(super) windows: OnceLock<Result<Arc<Intake>, String>>,
    /// Memory in which the kernel can be stopped, from its first use on.
    pub(super) copier: OnceLock<Arc<Copier>>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Gate {
    /// Makes the control socket (mode 0600) and starts serving it. A stale socket file is replaced when
    /// nobody listens on it. Call it in the process that serves requests: its threads do not survive a fork.
    ///
    /// # Errors
    /// The socket is in use, is another kind of file, has too long a path, or cannot be made.
    pub fn listen(socket: &Path, resolve: Resolve) -> Result<Arc<Gate>, GateError> {
        Gate::listen_for(socket, resolve, &Phase::ALL)
    }

    /// As [`Gate::listen`], for a server whose requests pass these phases: a rule at another one is refused.
    ///
    /// # Errors
    /// As [`Gate::listen`].
    pub fn listen_for(
        socket: &Path,
        resolve: Resolve,
        phases: &'static [Phase],
    ) -> Result<Arc<Gate>, GateError> {
        let listener = server::bind(socket)?;
        let gate = Arc::new_cyclic(|me| Gate {
            me: Weak::clone(me),
            socket: socket.to_owned(),
            resolve,
            phases,
            ask: OnceLock::new(),
            start_ns: monotonic_ns(),
            listener,
            state: Mutex::default(),
            changed: Condvar::new(),
            alarm: Condvar::new(),
            channel: Mutex::default(),
            windows: OnceLock::new(),
            copier: OnceLock::new(),
        });
        watchdog::start(&gate)?;
        server::start(&gate)?;
        Ok(gate)
    }

    /// A request arrived: opens its record.
    pub fn arrive(self: &Arc<Self>, subject: Subject) -> Ticket {
        let now_ns = self.now_ns();
        let mut state = self.state.lock();
        let overtaken = match state.claim(&subject) {
            Claim::Ticket(ticket) => return ticket,
            Claim::Overtaken(ticket) => Some(ticket),
            Claim::Nothing => None,
        };
        let seq = state.log.arrive(&subject, now_ns);
        drop(state);
        overtaken.into_iter().for_each(|ticket| self.overtaken(ticket));
        Ticket::new(Arc::clone(self), seq, subject)
    }

    /// Takes a request past `phase`: it comes back with what is decided when no rule holds it.
    /// `None` says that it is parked; [`Passage::resume`] goes on with it.
    pub fn pass<P: Passage + 'static>(request: P, phase: Phase) -> Option<(P, Decision)> {
        let gate = Arc::clone(request.ticket().gate());
        let mut state = gate.state.lock();
        let now_ns = gate.now_ns();
        let seq = request.ticket().seq();
        if let Some(record) = state.log.open(seq) {
            record.times.reach(phase, now_ns);
        }
        let subject = request.ticket().subject();
        let Some((rule, armed)) = state.acting(subject, phase) else {
            return Some((request, Decision::Go));
        };
        let (due_ns, drops) = match armed.rule.action {
            Action::Fail(errno) => return Some((request, Decision::Fail(errno))),
            Action::Short(bytes) => return Some((request, Decision::Short(bytes))),
            Action::Torn(bytes) => return Some((request, Decision::Torn(bytes))),
            Action::Corrupt(bits) => return Some((request, Decision::Corrupt(bits))),
            Action::Park => (None, false),
            Action::Drop => (None, true),
            Action::Delay(ms) => (Some(now_ns + ms * 1_000_000), false),
            Action::Bandwidth(rate) => (Some(armed.slot(rate, subject.len, now_ns)), false),
        };
        request.parks();
        let subject = request.ticket().subject().clone();
        let request = Box::new(move |decision| Box::new(request).resume(decision));
        let dropped = false;
        state
            .park(seq, Parked { rule, phase, since_ns: now_ns, due_ns, subject, request, dropped });
        if drops {
            state.give_up(seq, now_ns);
        }
        drop(state);
        gate.changed.notify_all();
        if due_ns.is_some() {
            gate.alarm.notify_all();
        }
        None
    }

    /// An INTERRUPT was received for the request of this `unique`: its record says when.
    pub fn interrupted(&self, unique: u64) {
        let now_ns = self.now_ns();
        self.state.lock().log.interrupt(unique, now_ns);
        self.changed.notify_all();
    }

    /// Gives answers to what clients ask of the server itself; the first one who does so counts.
    pub fn answer_with(&self, ask: Ask) {
        let _ = self.ask.set(ask);
    }

    /// Learns or forgets names of nodes, which rules with a pattern need.
    pub fn learn(&self, change: impl FnOnce(&mut Names)) {
        change(&mut self.state.lock().names);
    }

    /// Removes every rule and releases every parked request.
    pub fn open_all(&self, by: ReleasedBy) {
        let now_ns = self.now_ns();
        let mut state = self.state.lock();
        state.rules.clear();
        let seqs: Vec<u64> = state.parked.keys().copied().collect();
        let going = state.release(&seqs, by, now_ns);
        drop(state);
        self.let_go(going, Decision::Go);
    }

    /// Opens everything, ends the control server, removes the socket, and returns when no request that was
    /// parked is being worked on: only then may the image be closed. For the end of a mount.
    ///
    /// A mount that ends while requests are parked was aborted (an unmount would have been busy), and
    /// whoever parked them may want to answer late: they have up to two seconds for it.
    pub fn shutdown(&self) {
        let end = Instant::now() + LINGER;
        let mut state = self.state.lock();
        while state.log.is_holding() && !state.closed && Instant::now() < end {
            self.changed.wait_until(&mut state, end);
        }
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        drop(state);
        self.open_all(ReleasedBy::Shutdown);
        self.alarm.notify_all();
        self.hang_up();
        server::stop(&self.listener);
        let _ = std::fs::remove_file(&self.socket);
        self.give_up_early();
        *self.channel.lock() = None;
        if let Some(copier) = self.copier.get() {
            copier.close();
        }
        // They run on threads of their own, and a WRITE may be among them.
        let mut state = self.state.lock();
        while state.log.is_holding() {
            self.changed.wait(&mut state);
        }
    }

    /// Takes no more commands, and waits until the answers to the last ones are on their way.
    fn hang_up(&self) {
        let end = Instant::now() + LINGER;
        let mut state = self.state.lock();
        for stream in state.connections.values() {
            let _ = stream.shutdown(std::net::Shutdown::Read);
        }
        while !state.connections.is_empty() && Instant::now() < end {
            self.changed.wait_until(&mut state, end);
        }
    }

    /// The records of requests that are not finished, in the order in which they arrived.
    pub fn unfinished(&self) -> Vec<Record> {
        self.state.lock().log.unfinished()
    }

    // What a ticket does.

    pub(super) fn note(&self, seq: u64, edit: impl FnOnce(&mut Record)) {
        if let Some(record) = self.state.lock().log.open(seq) {
            edit(record);
        }
    }

    pub(super) fn finish(&self, seq: u64, outcome: Outcome) {
        let now_ns = self.now_ns();
        self.state.lock().log.finish(seq, outcome, now_ns);
        self.changed.notify_all();
    }

    // What the watchdog does.

    /// Ends what is over, then waits for the next deadline. `false` when the gate is closed.
    pub(super) fn watch(&self) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        let now_ns = self.now_ns();
        let late = state.late(now_ns);
        let mut going = state.release(&late, ReleasedBy::Delay, now_ns);
        going.extend(
            state.remove_rules(ReleasedBy::Watchdog, now_ns, |armed| armed.ends_ns <= now_ns),
        );
        if !going.is_empty() || state.is_left_by_rules() {
            drop(state);
            self.let_go(going, Decision::Go);
            return true;
        }
        match state.next_deadline_ns() {
            Some(at_ns) => {
                let ns = at_ns.saturating_sub(now_ns).max(1_000);
                self.alarm.wait_for(&mut state, Duration::from_nanos(ns));
            }
            None => self.alarm.wait(&mut state),
        }
        true
    }

    /// Lets requests go on, each on a thread of its own: one may block on what another one does.
    /// What was dropped fails, unless more was said than that it may go.
    fn let_go(&self, going: Vec<Going>, decision: Decision) -> u64 {
        let count = going.len() as u64;
        for Going { request, dropped } in going {
            let decision = match decision {
                Decision::Go if dropped => Decision::Fail(Errno::EIO as i32),
                other => other,
            };
            run_elsewhere(request, decision);
        }
        self.open_what_no_rule_shuts();
        self.changed.notify_all();
        count
    }

    pub(super) fn now_ns(&self) -> u64 {
        monotonic_ns() - self.start_ns
    }
}

/// Without a thread to be had the request goes on here.
fn run_elsewhere(request: Waiting, decision: Decision) {
    let slot = Arc::new(Mutex::new(Some(request)));
    let theirs = Arc::clone(&slot);
    let take = |slot: &Mutex<Option<Waiting>>| slot.lock().take();
    let run = move || {
        if let Some(request) = take(&theirs) {
            request(decision);
        }
    };
    let spawned = std::thread::Builder::new().name("gate-release".to_owned()).spawn(run);
    if spawned.is_err()
        && let Some(request) = take(&slot)
    {
        request(decision);
    }
}

pub(super) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has CLOCK_MONOTONIC");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
