//! The gate itself: rules in force, parked requests, the log, and who lets what go.

use std::collections::BTreeMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use inflight_fuse::channel::{Channel, Intake};
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use parking_lot::{Condvar, Mutex};

use super::copying::Copier;
use super::log::{Hold, Log, Outcome, Record};
use super::names::Names;
use super::rule::{Action, Armed, Rule};
use super::window::{Claim, Early, Queue};
use super::wire::{ParkedInfo, RuleInfo};
use super::{Decision, GateError, Passage, Phase, ReleasedBy, Subject, Ticket, server, watchdog};

/// Finds the node id of a path below the mount's root. Called outside every lock of the gate.
pub type Resolve = Box<dyn Fn(&Path) -> Option<u64> + Send + Sync>;

/// Answers what a client asks of the server behind the gate, in the words of that server; `None` when it does not know the
/// question. Called outside every lock of the gate.
pub type Ask = Box<dyn Fn(&str) -> Option<Result<String, String>> + Send + Sync>;

/// Most rules at one time: a leaking client gets an error instead of a slow mount.
const RULES_MAX: usize = 1024;

/// How long the end of a mount waits for those who hold its requests.
const LINGER: Duration = Duration::from_secs(2);

/// How a parked request goes on, in a thread that is its own and may wait.
type Waiting = Box<dyn FnOnce(Decision) + Send>;

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

#[derive(Default)]
pub(super) struct State {
    pub(super) rules: BTreeMap<u64, Armed>,
    parked: BTreeMap<u64, Parked>,
    /// The rule that shut the intake.
    pub(super) queue: Option<Queue>,
    /// Records of requests that are yet to be received, by `unique`.
    pub(super) early: BTreeMap<u64, Early>,
    /// The rule for which WRITEs are received into a trap.
    pub(super) trap: Option<u64>,
    connections: BTreeMap<u64, UnixStream>,
    last_rule: u64,
    last_connection: u64,
    watchdog_releases: u64,
    closed: bool,
    pub(super) log: Log,
    pub(super) names: Names,
}

pub(super) struct Parked {
    pub(super) rule: u64,
    pub(super) phase: Phase,
    pub(super) since_ns: u64,
    pub(super) due_ns: Option<u64>,
    pub(super) subject: Subject,
    pub(super) request: Waiting,
    /// It is not to be answered; its record is closed.
    pub(super) dropped: bool,
}

/// A request that goes on.
struct Going {
    request: Waiting,
    dropped: bool,
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

    // What the control server does for its clients.

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    pub(super) fn start_ns(&self) -> u64 {
        self.start_ns
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(super) fn connect(&self, stream: UnixStream) -> Option<u64> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        state.last_connection += 1;
        let id = state.last_connection;
        state.connections.insert(id, stream);
        Some(id)
    }

    pub(super) fn disconnect(&self, connection: u64) {
        let now_ns = self.now_ns();
        let mut state = self.state.lock();
        state.connections.remove(&connection);
        let going = state
            .remove_rules(ReleasedBy::Watchdog, now_ns, |armed| armed.owner == Some(connection));
        drop(state);
        self.let_go(going, Decision::Go);
        self.changed.notify_all();
    }

    pub(super) fn arm(&self, rule: Rule, connection: u64) -> Result<u64, GateError> {
        let mut armed = rule.arm()?;
        if armed.rule.action.damages() && self.phases == Phase::PROXY {
            let text = "torn and corrupt are done by the server itself: this gate stands in front of one that cannot";
            return Err(GateError::BadRule(text.to_owned()));
        }
        let phase = armed.rule.phase;
        if Phase::KERNEL.contains(&phase) {
            self.window(phase)?;
        } else if !self.phases.contains(&phase) {
            let phases: Vec<_> = self.phases.iter().map(|phase| phase.name()).collect();
            let text = format!(
                "this server has no phase '{}'; it has {}",
                armed.rule.phase,
                phases.join(", ")
            );
            return Err(GateError::BadRule(text));
        }
        if let Some(path) = &armed.rule.path {
            let found = (self.resolve)(Path::new(path));
            armed.ino = Some(found.ok_or_else(|| GateError::NoSuchPath(path.clone()))?);
        }
        armed.ends_ns = self.now_ns().saturating_add(armed.rule.ttl_ms.saturating_mul(1_000_000));
        armed.owner = (!armed.rule.detached).then_some(connection);
        let mut state = self.state.lock();
        if state.closed {
            return Err(GateError::Closed);
        }
        if state.rules.len() >= RULES_MAX {
            return Err(GateError::TooManyRules(RULES_MAX));
        }
        let id = state.last_rule + 1;
        match phase {
            Phase::Queued => state.begin_queue(id, &armed)?,
            Phase::Copying => self.begin_copying(&mut state, id, &armed)?,
            _ => {}
        }
        state.last_rule = id;
        state.rules.insert(id, armed);
        drop(state);
        if phase == Phase::Queued {
            self.shut(id)?;
        }
        self.alarm.notify_all();
        Ok(id)
    }

    pub(super) fn unpark(&self, rule: u64) -> Result<u64, GateError> {
        let now_ns = self.now_ns();
        let mut state = self.state.lock();
        state.rules.remove(&rule).ok_or(GateError::NoSuchRule(rule))?;
        let seqs = state.parked_by(rule);
        let going = state.release(&seqs, ReleasedBy::Client, now_ns);
        drop(state);
        Ok(self.let_go(going, Decision::Go))
    }

    pub(super) fn release_rule(&self, rule: u64) -> Result<u64, GateError> {
        let now_ns = self.now_ns();
        let mut state = self.state.lock();
        if !state.rules.contains_key(&rule) {
            return Err(GateError::NoSuchRule(rule));
        }
        let seqs = state.parked_by(rule);
        let going = state.release(&seqs, ReleasedBy::Client, now_ns);
        drop(state);
        Ok(self.let_go(going, Decision::Go))
    }

    pub(super) fn release_parked(&self) -> u64 {
        let now_ns = self.now_ns();
        let mut state = self.state.lock();
        let seqs: Vec<u64> = state.parked.keys().copied().collect();
        let going = state.release(&seqs, ReleasedBy::Client, now_ns);
        drop(state);
        self.let_go(going, Decision::Go)
    }

    pub(super) fn decide(&self, seq: u64, decision: Decision) -> Result<u64, GateError> {
        let now_ns = self.now_ns();
        let mut state = self.state.lock();
        let phase = state.parked.get(&seq).map(|parked| parked.phase);
        if decision != Decision::Go
            && let Some(phase) = phase.filter(|phase| Phase::KERNEL.contains(phase))
        {
            let text =
                format!("request {seq} is '{phase}', in the kernel: it can only be released");
            return Err(GateError::Refused(text));
        }
        if decision == Decision::Drop {
            let known = state.give_up(seq, now_ns);
            drop(state);
            self.changed.notify_all();
            return if known { Ok(1) } else { Err(GateError::NoSuchRequest(seq)) };
        }
        let going = state.release(&[seq], ReleasedBy::Client, now_ns);
        drop(state);
        if going.is_empty() {
            return Err(GateError::NoSuchRequest(seq));
        }
        Ok(self.let_go(going, decision))
    }

    /// Has the server behind the gate answer a question of its own.
    pub(super) fn ask(&self, what: &str) -> Result<String, GateError> {
        let answer = self.ask.get().and_then(|ask| ask(what));
        let unknown = || GateError::Refused(format!("this server does not know '{what}'"));
        answer.ok_or_else(unknown)?.map_err(GateError::Refused)
    }

    pub(super) fn rules(&self) -> Vec<RuleInfo> {
        let now_ns = self.now_ns();
        self.state.lock().rule_infos(now_ns)
    }

    pub(super) fn parked(&self, rule: Option<u64>) -> Vec<ParkedInfo> {
        let now_ns = self.now_ns();
        self.state.lock().parked_infos(rule, now_ns)
    }

    pub(super) fn watchdog_releases(&self) -> u64 {
        self.state.lock().watchdog_releases
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.state.lock().log.last_seq()
    }

    /// Waits for `ready`, at most for `slice`. The caller repeats within its own bound.
    pub(super) fn wait_for(&self, slice: Duration, ready: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state.lock();
        if !ready(&state) && !state.closed {
            self.changed.wait_for(&mut state, slice);
        }
        ready(&state)
    }

    /// Finished records after the first `since`, how many were lost, the next `since`; open records.
    pub(super) fn log(&self, since: u64, max: usize) -> (Vec<Record>, u64, u64, Vec<Record>) {
        let state = self.state.lock();
        let (records, lost, next) = state.log.since(since, max);
        (records, lost, next, state.log.unfinished())
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

impl State {
    pub(super) fn parked_count(&self, rule: Option<u64>) -> u64 {
        let held =
            |parked: &&Parked| !parked.dropped && rule.is_none_or(|rule| parked.rule == rule);
        self.parked.values().filter(held).count() as u64
    }

    pub(super) fn is_finished(&self, seq: u64) -> bool {
        self.log.is_finished(seq)
    }

    pub(super) fn finished_total(&self) -> u64 {
        self.log.finished_total
    }

    /// The first rule that acts on the request, in the order in which they were made.
    pub(super) fn acting(&mut self, subject: &Subject, phase: Phase) -> Option<(u64, &mut Armed)> {
        let State { rules, names, .. } = self;
        rules
            .iter_mut()
            .find_map(|(&id, armed)| armed.take(subject, phase, names).then_some((id, armed)))
    }

    pub(super) fn park(&mut self, seq: u64, parked: Parked) {
        let Parked { rule, phase, since_ns, .. } = parked;
        if let Some(record) = self.log.open(seq) {
            record.holds.push(Hold { rule, phase, parked: since_ns, released: None, by: None });
        }
        self.parked.insert(seq, parked);
    }

    /// A parked request is not to be answered. `false` when there is none of that number.
    fn give_up(&mut self, seq: u64, now_ns: u64) -> bool {
        let Some(parked) = self.parked.get_mut(&seq) else { return false };
        (parked.dropped, parked.due_ns) = (true, None);
        self.log.finish(seq, Outcome::Dropped, now_ns);
        true
    }

    fn parked_by(&self, rule: u64) -> Vec<u64> {
        let of_rule = self.parked.iter().filter(|(_, parked)| parked.rule == rule);
        of_rule.map(|(&seq, _)| seq).collect()
    }

    /// Takes requests out of the table and logs who did it. The caller runs them outside the lock.
    fn release(&mut self, seqs: &[u64], by: ReleasedBy, now_ns: u64) -> Vec<Going> {
        let mut going = Vec::new();
        for &seq in seqs {
            let Some(parked) = self.parked.remove(&seq) else { continue };
            if by == ReleasedBy::Watchdog {
                self.watchdog_releases += 1;
            }
            if let Some(hold) = self.log.open(seq).and_then(|record| record.holds.last_mut()) {
                hold.released = Some(now_ns);
                hold.by = Some(by);
            }
            going.push(Going { request: parked.request, dropped: parked.dropped });
        }
        going
    }

    fn remove_rules(
        &mut self,
        by: ReleasedBy,
        now_ns: u64,
        over: impl Fn(&Armed) -> bool,
    ) -> Vec<Going> {
        let rules = self.rules.iter().filter(|(_, armed)| over(armed));
        let ids: Vec<u64> = rules.map(|(&id, _)| id).collect();
        let mut going = Vec::new();
        for id in ids {
            self.rules.remove(&id);
            let seqs = self.parked_by(id);
            going.extend(self.release(&seqs, by, now_ns));
        }
        going
    }

    fn late(&self, now_ns: u64) -> Vec<u64> {
        let due = |parked: &Parked| parked.due_ns.is_some_and(|at_ns| at_ns <= now_ns);
        self.parked.iter().filter(|(_, parked)| due(parked)).map(|(&seq, _)| seq).collect()
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        let rules = self.rules.values().map(|armed| armed.ends_ns);
        rules.chain(self.parked.values().filter_map(|parked| parked.due_ns)).min()
    }

    fn rule_infos(&self, now_ns: u64) -> Vec<RuleInfo> {
        let info = |(&id, armed): (&u64, &Armed)| RuleInfo {
            id,
            rule: armed.rule.clone(),
            ino: armed.ino,
            matched: armed.matched,
            acted: armed.acted,
            parked: self.parked_count(Some(id)),
            left_ms: armed.ends_ns.saturating_sub(now_ns) / 1_000_000,
        };
        self.rules.iter().map(info).collect()
    }

    fn parked_infos(&self, rule: Option<u64>, now_ns: u64) -> Vec<ParkedInfo> {
        let of_rule = |parked: &Parked| rule.is_none_or(|rule| parked.rule == rule);
        let info = |(&id, parked): (&u64, &Parked)| ParkedInfo {
            id,
            rule: parked.rule,
            unique: parked.subject.unique,
            op: parked.subject.opcode.name().unwrap_or("?").to_owned(),
            ino: parked.subject.ino,
            offset: parked.subject.offset,
            len: parked.subject.len,
            pid: parked.subject.pid,
            phase: parked.phase,
            age_ms: now_ns.saturating_sub(parked.since_ns) / 1_000_000,
        };
        self.parked.iter().filter(|(_, parked)| of_rule(parked)).map(info).collect()
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
