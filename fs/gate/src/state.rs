//! What the gate's lock guards: the rules in force, the parked requests, and the log.

use super::armed::Armed;
use super::log::{Hold, Log, Outcome};
use super::names::Names;
use super::notice::Retrieved;
use super::window::{Early, Queue};
use super::wire::{ParkedInfo, RuleInfo};
use super::{Decision, Phase, ReleasedBy, Subject};
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;

/// How a parked request goes on, in a thread that is its own and may wait.
pub(super) type Waiting = Box<dyn FnOnce(Decision) + Send>;

#[derive(Default)]
pub(super) struct State {
    pub(super) rules: BTreeMap<u64, Armed>,
    pub(super) parked: BTreeMap<u64, Parked>,
    /// The rule that shut the intake.
    pub(super) queue: Option<Queue>,
    /// Records of requests that are yet to be received, by `unique`.
    pub(super) early: BTreeMap<u64, Early>,
    /// The rule for which WRITEs are received into a trap.
    pub(super) trap: Option<u64>,
    pub(super) connections: BTreeMap<u64, UnixStream>,
    pub(super) last_rule: u64,
    pub(super) last_connection: u64,
    pub(super) watchdog_releases: u64,
    pub(super) closed: bool,
    pub(super) log: Log,
    pub(super) names: Names,
    pub(super) retrieved: Retrieved,
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
pub(super) struct Going {
    pub(super) request: Waiting,
    pub(super) dropped: bool,
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
    pub(super) fn give_up(&mut self, seq: u64, now_ns: u64) -> bool {
        let Some(parked) = self.parked.get_mut(&seq) else { return false };
        (parked.dropped, parked.due_ns) = (true, None);
        self.log.finish(seq, Outcome::Dropped, now_ns);
        true
    }

    pub(super) fn parked_by(&self, rule: u64) -> Vec<u64> {
        let of_rule = self.parked.iter().filter(|(_, parked)| parked.rule == rule);
        of_rule.map(|(&seq, _)| seq).collect()
    }

    /// Takes requests out of the table and logs who did it. The caller runs them outside the lock.
    pub(super) fn release(&mut self, seqs: &[u64], by: ReleasedBy, now_ns: u64) -> Vec<Going> {
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

    pub(super) fn remove_rules(
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

    pub(super) fn late(&self, now_ns: u64) -> Vec<u64> {
        let due = |parked: &Parked| parked.due_ns.is_some_and(|at_ns| at_ns <= now_ns);
        self.parked.iter().filter(|(_, parked)| due(parked)).map(|(&seq, _)| seq).collect()
    }

    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        let rules = self.rules.values().map(|armed| armed.ends_ns);
        rules.chain(self.parked.values().filter_map(|parked| parked.due_ns)).min()
    }

    pub(super) fn rule_infos(&self, now_ns: u64) -> Vec<RuleInfo> {
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

    pub(super) fn parked_infos(&self, rule: Option<u64>, now_ns: u64) -> Vec<ParkedInfo> {
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
