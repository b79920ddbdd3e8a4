//! A rule in force: what it matches, and what it has come to.

use super::chance::Chance;
use super::kind::{self, Kind};
use super::names::{Names, Shape};
use super::rule::{Rule, TTL_MAX_MS};
use super::{GateError, Phase, Subject};
use inflight_fuse::abi::Opcode;

/// A rule in force: the rule, resolved, with its counters.
#[derive(Clone, Debug)]
pub(super) struct Armed {
    pub rule: Rule,
    /// Kinds of which one must match; none when all do.
    pub kinds: Vec<Kind>,
    /// What a path must match.
    pub shape: Option<Shape>,
    /// Decides which of the matches are acted on.
    pub chance: Option<Chance>,
    /// Node that must match, from `ino` or `path`.
    pub ino: Option<u64>,
    /// Connection that made the rule; `None` when detached.
    pub owner: Option<u64>,
    /// When the rule ends, in ns of the gate's clock.
    pub ends_ns: u64,
    /// When what a bandwidth was spent on so far is over, in ns of the gate's clock.
    pub free_ns: u64,
    /// Requests that matched so far.
    pub matched: u64,
    /// Requests that were acted on so far.
    pub acted: u64,
}

impl Rule {
    /// Checks everything that can be checked without a filesystem, and prepares it for use.
    ///
    /// # Errors
    /// [`GateError::UnknownOp`] and [`GateError::BadRule`].
    pub(super) fn arm(self) -> Result<Armed, GateError> {
        self.check_numbers().map_err(GateError::BadRule)?;
        self.check_window().map_err(GateError::BadRule)?;
        let ops = self.op.as_deref().or(self.action.ops());
        let kinds = ops.map(kind::list).transpose()?.unwrap_or_default();
        let acted_on = self.action.ops().map(kind::list).transpose()?;
        if let Some(acted_on) = acted_on
            && let Some(other) = kinds.iter().find(|kind| !acted_on.contains(kind))
        {
            let ops = self.action.ops().unwrap_or_default();
            return Err(GateError::BadRule(format!(
                "'{}' requests have no data to act on; of these: {ops}",
                other.opcode
            )));
        }
        let is_copied = |opcode| matches!(opcode, Opcode::READ | Opcode::WRITE);
        if let Some(kind) = kinds.iter().find(|kind| !is_copied(kind.opcode))
            && self.phase == Phase::Copying
        {
            let text = format!("only read and write are stopped at 'copying', not {}", kind.opcode);
            return Err(GateError::BadRule(text));
        }
        let ranged = self.offset.is_some() || self.len.is_some();
        if let Some(kind) = kinds.iter().find(|kind| ranged && !has_range(kind.opcode)) {
            return Err(GateError::BadRule(format!(
                "'{}' requests have no byte range",
                kind.opcode
            )));
        }
        let shape = self.glob.as_deref().map(Shape::new).transpose()?;
        let chance = match (self.millionths, self.seed) {
            (Some(millionths), Some(seed)) => Some(Chance::new(millionths, seed)),
            _ => None,
        };
        let ino = self.ino;
        Ok(Armed {
            rule: self,
            kinds,
            shape,
            chance,
            ino,
            owner: None,
            ends_ns: 0,
            free_ns: 0,
            matched: 0,
            acted: 0,
        })
    }
}

impl Armed {
    /// Whether this rule acts on the request that now reaches `phase`. Counts the match.
    pub fn take(&mut self, subject: &Subject, phase: Phase, names: &Names) -> bool {
        if phase != self.rule.phase || !self.matches(subject, names) {
            return false;
        }
        self.matched += 1;
        let left = self.rule.count.is_none_or(|count| self.acted < count);
        let acts = left && self.is_due() && self.chance.as_mut().is_none_or(Chance::falls);
        self.acted += u64::from(acts);
        acts
    }

    /// When a request of so many bytes may go on at `rate` bytes a second, which it uses up until then.
    pub fn slot(&mut self, rate: u64, bytes: u64, now_ns: u64) -> u64 {
        let took = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        self.free_ns = self.free_ns.max(now_ns).saturating_add(took);
        self.free_ns.min(now_ns.saturating_add(TTL_MAX_MS * 1_000_000))
    }

    /// Whether the match that was counted last is one of those that are meant.
    fn is_due(&self) -> bool {
        let every = self.rule.every.unwrap_or(1);
        let first = self.rule.nth.unwrap_or(every);
        self.matched >= first && (self.matched - first).is_multiple_of(every)
    }

    /// Whether it may act on WRITEs.
    pub fn is_of_writes(&self) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|kind| kind.opcode == Opcode::WRITE)
    }

    /// The cheap comparisons first: the last ones read /proc and put paths together.
    pub fn matches(&self, subject: &Subject, names: &Names) -> bool {
        let rule = &self.rule;
        (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind.is_meant(subject)))
            && self.ino.is_none_or(|ino| ino == subject.ino)
            && rule.uid.is_none_or(|uid| uid == subject.uid)
            && self.overlaps(subject)
            && (rule.phase != Phase::Copying || self.has_page(subject))
            && rule.pid.is_none_or(|pid| kind::is_of_process(subject.pid, pid))
            && rule.comm.as_ref().is_none_or(|comm| kind::is_called(subject.pid, comm))
            && self.shape.as_ref().is_none_or(|shape| names.is_like(subject, shape))
    }

    fn has_page(&self, subject: &Subject) -> bool {
        let page = self.rule.page.unwrap_or(0);
        subject.len > page.saturating_mul(crate::copying::page_size() as u64)
    }

    fn overlaps(&self, subject: &Subject) -> bool {
        if self.rule.offset.is_none() && self.rule.len.is_none() {
            return true;
        }
        if !has_range(subject.opcode) {
            return false;
        }
        let start = self.rule.offset.unwrap_or(0);
        let end = self.rule.len.map_or(u64::MAX, |len| start.saturating_add(len));
        let (from, len) = match subject.size {
            Some(size) if subject.opcode == Opcode::SETATTR => (size, 1),
            None if subject.opcode == Opcode::SETATTR => return false,
            _ => (subject.offset, subject.len.max(1)),
        };
        from < end && from.saturating_add(len) > start
    }
}

/// Whether requests of this kind carry a byte range, which a rule's range can overlap.
///
/// A SETATTR counts: its range is the single point of the new size.
fn has_range(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::READ
            | Opcode::WRITE
            | Opcode::FALLOCATE
            | Opcode::LSEEK
            | Opcode::COPY_FILE_RANGE
            | Opcode::COPY_FILE_RANGE_64
            | Opcode::SETATTR
    )
}
