//! What the control server does for its clients.

use super::Gate;
use crate::log::Record;
use crate::rule::Rule;
use crate::state::State;
use crate::wire::{ParkedInfo, RuleInfo};
use crate::{Decision, GateError, Phase, ReleasedBy};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Most rules at one time: a leaking client gets an error instead of a slow mount.
const RULES_MAX: usize = 1024;

impl Gate {
    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    pub(crate) fn start_ns(&self) -> u64 {
        self.start_ns
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(crate) fn connect(&self, stream: UnixStream) -> Option<u64> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        state.last_connection += 1;
        let id = state.last_connection;
        state.connections.insert(id, stream);
        Some(id)
    }

    pub(crate) fn disconnect(&self, connection: u64) {
        let now_ns = self.now_ns();
        let mut state = self.state.lock();
        state.connections.remove(&connection);
        let going = state
            .remove_rules(ReleasedBy::Watchdog, now_ns, |armed| armed.owner == Some(connection));
        drop(state);
        self.let_go(going, Decision::Go);
        self.changed.notify_all();
    }

    pub(crate) fn arm(&self, rule: Rule, connection: u64) -> Result<u64, GateError> {
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
            armed.ino = Some(self.node(path)?);
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

    /// The node id of a path below the mount's root.
    pub(crate) fn node(&self, path: &str) -> Result<u64, GateError> {
        let found = (self.resolve)(Path::new(path));
        found.ok_or_else(|| GateError::NoSuchPath(path.to_owned()))
    }

    pub(crate) fn take_retrieved(&self, number: u64) -> Option<Vec<u8>> {
        self.state.lock().retrieved.take(number)
    }

    pub(crate) fn unpark(&self, rule: u64) -> Result<u64, GateError> {
        let now_ns = self.now_ns();
        let mut state = self.state.lock();
        state.rules.remove(&rule).ok_or(GateError::NoSuchRule(rule))?;
        let seqs = state.parked_by(rule);
        let going = state.release(&seqs, ReleasedBy::Client, now_ns);
        drop(state);
        Ok(self.let_go(going, Decision::Go))
    }

    pub(crate) fn release_rule(&self, rule: u64) -> Result<u64, GateError> {
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

    pub(crate) fn release_parked(&self) -> u64 {
        let now_ns = self.now_ns();
        let mut state = self.state.lock();
        let seqs: Vec<u64> = state.parked.keys().copied().collect();
        let going = state.release(&seqs, ReleasedBy::Client, now_ns);
        drop(state);
        self.let_go(going, Decision::Go)
    }

    pub(crate) fn decide(&self, seq: u64, decision: Decision) -> Result<u64, GateError> {
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
    pub(crate) fn ask(&self, what: &str) -> Result<String, GateError> {
        let answer = self.ask.get().and_then(|ask| ask(what));
        let unknown = || GateError::Refused(format!("this server does not know '{what}'"));
        answer.ok_or_else(unknown)?.map_err(GateError::Refused)
    }

    pub(crate) fn rules(&self) -> Vec<RuleInfo> {
        let now_ns = self.now_ns();
        self.state.lock().rule_infos(now_ns)
    }

    pub(crate) fn parked(&self, rule: Option<u64>) -> Vec<ParkedInfo> {
        let now_ns = self.now_ns();
        self.state.lock().parked_infos(rule, now_ns)
    }

    pub(crate) fn watchdog_releases(&self) -> u64 {
        self.state.lock().watchdog_releases
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.state.lock().log.last_seq()
    }

    /// Waits for `ready`, at most for `slice`. The caller repeats within its own bound.
    pub(crate) fn wait_for(&self, slice: Duration, ready: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state.lock();
        if !ready(&state) && !state.closed {
            self.changed.wait_for(&mut state, slice);
        }
        ready(&state)
    }

    /// Finished records after the first `since`, how many were lost, the next `since`; open records.
    pub(crate) fn log(&self, since: u64, max: usize) -> (Vec<Record>, u64, u64, Vec<Record>) {
        let state = self.state.lock();
        let (records, lost, next) = state.log.since(since, max);
        (records, lost, next, state.log.unfinished())
    }
}
