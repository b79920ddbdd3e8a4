//! What a scene does at the gate: rules, parked requests, the request log.

use std::fs::File;
use std::os::unix::fs::DirEntryExt as _;
use std::time::Duration;

use anyhow::Context;
use inflight_gate::{Phase, Record, Rule, wire::ParkedInfo};

use super::{Aside, BOUND, RENDEZVOUS, Scene, Stamped};
use crate::event::Actor;
use crate::sys;
use crate::target::Target;
use crate::verdict::{Stop, no_proof, not_run};

/// Life of a rule, in ms: beyond every bound of a case, so that the watchdog acts only for the dead.
const RULE_LIFE_MS: u64 = 60_000;

/// A rule that a case made.
#[derive(Clone, Copy, Debug)]
pub struct Parked {
    rule: u64,
}

impl Scene<'_> {
    /// Makes requests of this kind on a byte range of a file stop at a phase. Behind a loop device the range
    /// is that of the file's blocks.
    ///
    /// # Errors
    /// No gate, or the file has no place.
    pub fn park(
        &mut self,
        op: &str,
        file: &Stamped,
        range: (u64, u64),
        phase: Phase,
    ) -> anyhow::Result<Parked> {
        self.rule(self.on(op, file, Some(range), phase)?)
    }

    /// As [`Scene::park`] with more conditions: `shape` edits the rule.
    ///
    /// # Errors
    /// As [`Scene::park`].
    pub fn park_with(
        &mut self,
        op: &str,
        file: &Stamped,
        phase: Phase,
        shape: impl FnOnce(Rule) -> Rule,
    ) -> anyhow::Result<Parked> {
        let rule = self.on(op, file, None, phase)?;
        self.rule(shape(rule))
    }

    fn rule(&mut self, rule: Rule) -> anyhow::Result<Parked> {
        Ok(Parked { rule: self.stage.gate()?.park(rule.ttl_ms(RULE_LIFE_MS))? })
    }

    fn on(
        &self,
        op: &str,
        file: &Stamped,
        range: Option<(u64, u64)>,
        phase: Phase,
    ) -> anyhow::Result<Rule> {
        let rule = Rule::at(self.phase(phase)?).op(op);
        if self.stage.target().is_fuse() {
            let path = file.path.strip_prefix(self.stage.base()?).context("a file of the mount")?;
            let rule = rule.path(format!("/{}", path.display()));
            return Ok(match range {
                Some((offset, len)) => rule.range(offset, len),
                None => rule,
            });
        }
        let (offset, len) = range.context("behind a loop device a rule needs a range")?;
        let place = sys::place(&File::open(&file.path)?, offset)?;
        Ok(rule.path("/loop").range(place, len))
    }

    /// The phase that a rule has to name. Somebody's server has done the work when its answer comes, and of what
    /// lies in between nothing can be seen.
    fn phase(&self, phase: Phase) -> anyhow::Result<Phase> {
        match (self.stage.target(), phase) {
            (Target::Server(_), Phase::Applied) => Ok(Phase::Replied),
            (Target::Server(_), Phase::Prepared | Phase::Piped) => {
                let name = self.stage.target().name();
                Err(not_run(format!("{name} has no phase '{phase}' that can be seen from outside")))
            }
            _ => Ok(phase),
        }
    }

    /// Waits until `count` requests are parked by a rule.
    ///
    /// # Errors
    /// They did not come: BROKEN.
    pub fn meet(&mut self, parked: Parked, count: u64) -> anyhow::Result<Vec<ParkedInfo>> {
        let wait = self.stage.gate()?.wait_parked(Some(parked.rule), count, RENDEZVOUS)?;
        if !wait.reached {
            let found = wait.parked.len();
            let text = format!("{found} of {count} requests came to the gate in {RENDEZVOUS:?}");
            return Err(Stop::Broken(text).into());
        }
        self.event(Actor::Gate, format!("{count} parked"));
        Ok(wait.parked)
    }

    /// Whether a rule has parked a request, waiting a moment for it.
    ///
    /// # Errors
    /// No gate.
    pub fn is_parked(&mut self, parked: Parked, moment: Duration) -> anyhow::Result<bool> {
        Ok(self.stage.gate()?.wait_parked(Some(parked.rule), 1, moment)?.reached)
    }

    /// Lets go what a rule parked, and ends the rule.
    ///
    /// # Errors
    /// The rule is gone: its time was up.
    pub fn release(&mut self, parked: Parked) -> anyhow::Result<u64> {
        self.event(Actor::Gate, "release");
        Ok(self.stage.gate()?.unpark(parked.rule)?)
    }

    /// Waits until the request with this number is over.
    ///
    /// # Errors
    /// It did not end: HANG.
    pub fn wait_done(&mut self, seq: u64) -> anyhow::Result<()> {
        if self.stage.gate()?.wait_done(seq, BOUND)?.reached {
            return Ok(());
        }
        Err(Stop::Hang(format!("request {seq} was not answered in {BOUND:?}")).into())
    }

    /// Runs a truncate (or anything that sends one SETATTR or FALLOCATE on this file) aside, and returns when
    /// the server has done it, or, where requests cannot be seen, when it is over or blocked. What it waits
    /// for after that is a matter of the kernel's.
    ///
    /// # Errors
    /// The request did not come, or was not answered.
    pub fn change<T: Send + 'static>(
        &mut self,
        op: &str,
        file: &Stamped,
        what: &str,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<Aside<T>> {
        if !self.stage.target().is_fuse() {
            let mut aside = self.aside(what, call)?;
            aside.settle()?;
            return Ok(aside);
        }
        let rule = self.park_with(op, file, Phase::Received, |rule| rule.count(1))?;
        let aside = self.aside(what, call)?;
        let is_served = matches!(self.stage.target(), Target::Server(_));
        if is_served && !self.stage.gate()?.wait_parked(Some(rule.rule), 1, RENDEZVOUS)?.reached {
            // It depends on what the server asked for in INIT and OPEN whether the kernel holds the inode.
            return Err(no_proof(format!(
                "serialised: {what} was not sent while a request was parked"
            )));
        }
        let seq = self.meet(rule, 1)?[0].id;
        self.release(rule)?;
        self.wait_done(seq)?;
        Ok(aside)
    }

    /// Numbers of the requests that are parked now.
    ///
    /// # Errors
    /// No gate.
    pub fn requests_open(&mut self) -> anyhow::Result<Vec<u64>> {
        Ok(self.stage.gate()?.list()?.parked.iter().map(|parked| parked.id).collect())
    }

    /// Waits until one more request is over, or for the bound.
    ///
    /// # Errors
    /// No gate.
    pub fn next_record(&mut self, bound: Duration) -> anyhow::Result<()> {
        let gate = self.stage.gate()?;
        let now = gate.log(u64::MAX, 0, Duration::ZERO)?.next;
        gate.log(now, 1, bound)?;
        Ok(())
    }

    /// Whether the server first cut a file to nothing and then applied the write at `offset`; `None` where the server
    /// is not of the filesystem under test. What the kernel believes of the size must agree with it.
    ///
    /// # Errors
    /// No gate.
    pub fn was_cut_before_write(&mut self, ino: u64, offset: u64) -> anyhow::Result<Option<bool>> {
        const APPLIED: usize = Phase::Applied as usize;
        if !self.stage.target().is_fuse() {
            return Ok(None);
        }
        let applied = |record: &Record| record.times.phases[APPLIED].or(record.times.replied);
        let writes = self.requests("write", ino)?;
        let wrote = writes.iter().rev().find(|record| record.offset == offset).and_then(applied);
        let truncates = self.requests("setattr", ino)?;
        let cut = truncates.iter().rev().find(|record| record.size == Some(0)).and_then(applied);
        self.note(match wrote > cut {
            true => "the server truncated first, then wrote",
            false => "the server wrote first, then truncated",
        });
        Ok(Some(wrote > cut))
    }

    /// The node id of the file of this scene with an inode number. They are the same but in somebody's server.
    fn node(&mut self, ino: u64) -> anyhow::Result<u64> {
        if !matches!(self.stage.target(), Target::Server(_)) {
            return Ok(ino);
        }
        if let Some(node) = self.nodes.get(&ino) {
            return Ok(*node);
        }
        let path = std::fs::read_dir(&self.folder)?.flatten().find(|entry| entry.ino() == ino);
        let path = path.context("a file of the scene that was renamed or unlinked")?.path();
        let path = path.strip_prefix(self.stage.base()?).context("a file of the mount")?.to_owned();
        let gate = self.stage.gate()?;
        // The gate follows paths for its rules; this one meets no request.
        let rule =
            gate.park(Rule::at(Phase::Received).op("bmap").path(format!("/{}", path.display())))?;
        let found = gate.list()?.rules.into_iter().find(|info| info.id == rule);
        gate.unpark(rule)?;
        let node = found.and_then(|info| info.ino).context("a rule with a path has its node")?;
        self.nodes.insert(ino, node);
        Ok(node)
    }

    /// The gate's records of requests of a kind that arrived in this scene, in order of arrival.
    ///
    /// # Errors
    /// No gate.
    pub fn requests(&mut self, op: &str, ino: u64) -> anyhow::Result<Vec<Record>> {
        let ino = self.node(ino)?;
        let (mut since, mut found) = (self.log_from, Vec::new());
        loop {
            let page = self.stage.gate()?.log(since, 4096, Duration::ZERO)?;
            let wanted = |record: &Record| record.op == op && record.ino == ino;
            found.extend(page.records.into_iter().filter(wanted));
            if page.next == since {
                found.extend(page.open.into_iter().filter(wanted));
                found.sort_by_key(|record| record.seq);
                return Ok(found);
            }
            since = page.next;
        }
    }
}
