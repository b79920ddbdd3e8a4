//! Rules: which requests are stopped, where, and for how long.

use serde::{Deserialize, Serialize};

use super::chance::Chance;
use super::kind::{self, Kind};
use super::names::{Names, Shape};
use super::{GateError, Phase, Subject, errno};
use inflight_fuse::abi::Opcode;

/// Life of a rule that does not say otherwise, in milliseconds.
pub const TTL_DEFAULT_MS: u64 = 10_000;
/// Longest life of a rule that holds requests, in milliseconds.
pub const TTL_MAX_MS: u64 = 600_000;
/// Life of a rule that lasts until somebody ends it. Not for rules that hold requests.
pub const TTL_UNBOUNDED_MS: u64 = u64::MAX;
/// The whole of a probability, of which rules name parts.
pub const MILLION: u32 = 1_000_000;

/// What a rule does with a request that it matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Hold it until somebody releases it.
    #[default]
    Park,
    /// Hold it for this many milliseconds.
    Delay(u64),
    /// Let it go on at once with an errno as its answer; JSON may name it, as in `{"fail":"EIO"}`.
    Fail(#[serde(deserialize_with = "errno::deserialize")] i32),
    /// Let it go on at once with at most this many bytes.
    Short(u32),
    /// Write its first bytes, at most so many, and answer that all were written: a torn write, or with 0 a lost one. Only of
    /// WRITE, at `received`, and by a server that has the gate built in.
    Torn(u32),
    /// Turn over so many bits of what it reads or writes. Only of READ and WRITE, at `received`, and by a server that has the
    /// gate built in.
    Corrupt(u32),
    /// Hold it for as long as its bytes take at this many bytes a second, behind those that came before it.
    Bandwidth(u64),
    /// Do not answer it. When the rule ends, or somebody releases the request, its answer is EIO, as that of
    /// a disk that timed out.
    Drop,
}

impl Action {
    /// Whether a request that is acted on waits for a person, or for the end of the rule.
    pub fn holds(self) -> bool {
        matches!(self, Action::Park | Action::Drop)
    }

    /// Whether it changes data: the server must do that itself.
    pub fn damages(self) -> bool {
        matches!(self, Action::Torn(_) | Action::Corrupt(_))
    }

    /// What `op` is where a rule says nothing of it: what the action can act on.
    pub(super) fn ops(self) -> Option<&'static str> {
        match self {
            Action::Torn(_) => Some("write"),
            Action::Corrupt(_) | Action::Bandwidth(_) => Some("read,write"),
            _ => None,
        }
    }
}

/// Which requests are stopped, and where. Every field that is set must match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Kinds of requests by name, separated by commas, e.g. `read,write`: those of [`Opcode::TABLE`], and
    /// `fdatasync` for what the opcode calls `fsync`, which then means fsync(2) alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// Node id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ino: Option<u64>,
    /// Path below the mount's root, looked up once, when the rule is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Path below the mount's root, or a pattern of such paths, compared when a request comes: the file need
    /// not exist yet. `*` and `?` do not match a slash, `**` does. Without a slash it is compared with the last
    /// part of the path alone. A file has the names under which the kernel has looked it up; one that was
    /// unlinked keeps its last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glob: Option<String>,
    /// Process (or thread) that asks. Write-back and readahead by the kernel are nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// User that asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Name of the thread that asks, as in /proc/PID/comm: at most 15 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// First byte of a range that the request must overlap (default 0 when `len` is set).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes of that range (default: to the end when `offset` is set). Not 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub len: Option<u64>,
    /// The first matching request that is acted on, counted from 1 (default 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// Of the matching requests from `nth` on, act on the first of each so many; without `nth`, on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// Of those, act with this probability, in millionths, 1 to [`MILLION`]. Needs `seed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub millionths: Option<u32>,
    /// What the choices of `millionths` begin with: the same seed chooses the same matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How many requests are acted on (default: all).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Where the request is stopped.
    #[serde(default = "phase_default")]
    pub phase: Phase,
    /// At `copying`: the page of the data, counted from 0, at which the kernel is stopped (default 0). Requests that have
    /// no such page are not held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u64>,
    /// What is done with it.
    #[serde(default)]
    pub action: Action,
    /// Life of the rule in milliseconds, 1 to [`TTL_MAX_MS`]; longer, up to [`TTL_UNBOUNDED_MS`], for a rule
    /// whose action does not hold requests.
    #[serde(default = "ttl_default")]
    pub ttl_ms: u64,
    /// Whether the rule outlives the connection that made it.
    #[serde(default)]
    pub detached: bool,
}

fn ttl_default() -> u64 {
    TTL_DEFAULT_MS
}

fn phase_default() -> Phase {
    Phase::Received
}

impl Rule {
    /// A rule that parks every request at `phase`; narrow it with the other methods.
    pub fn at(phase: Phase) -> Rule {
        Rule {
            op: None,
            ino: None,
            path: None,
            glob: None,
            pid: None,
            uid: None,
            comm: None,
            offset: None,
            len: None,
            nth: None,
            every: None,
            millionths: None,
            seed: None,
            count: None,
            phase,
            page: None,
            action: Action::Park,
            ttl_ms: TTL_DEFAULT_MS,
            detached: false,
        }
    }

    /// Only requests of this kind.
    pub fn op(mut self, name: &str) -> Rule {
        self.op = Some(name.to_owned());
        self
    }

    /// Only requests on this node.
    pub fn ino(mut self, ino: u64) -> Rule {
        self.ino = Some(ino);
        self
    }

    /// Only requests on the file that has this path now.
    pub fn path(mut self, path: impl Into<String>) -> Rule {
        self.path = Some(path.into());
        self
    }

    /// Only requests on files whose path, when they come, matches this pattern; see [`Rule::glob`](Self#structfield.glob).
    pub fn glob(mut self, pattern: impl Into<String>) -> Rule {
        self.glob = Some(pattern.into());
        self
    }

    /// Only requests that overlap this byte range.
    pub fn range(mut self, offset: u64, len: u64) -> Rule {
        (self.offset, self.len) = (Some(offset), Some(len));
        self
    }

    /// Act from the `nth` match on, counted from 1.
    pub fn nth(mut self, nth: u64) -> Rule {
        self.nth = Some(nth);
        self
    }

    /// Act on `count` requests, then no more.
    pub fn count(mut self, count: u64) -> Rule {
        self.count = Some(count);
        self
    }

    /// At `copying`, stop the kernel at this page of the data, counted from 0.
    pub fn page(mut self, page: u64) -> Rule {
        self.page = Some(page);
        self
    }

    /// Act like this instead of parking.
    pub fn action(mut self, action: Action) -> Rule {
        self.action = action;
        self
    }

    /// Let the rule live for `ms` milliseconds.
    pub fn ttl_ms(mut self, ms: u64) -> Rule {
        self.ttl_ms = ms;
        self
    }

    /// Let the rule outlive its connection.
    pub fn detached(mut self) -> Rule {
        self.detached = true;
        self
    }

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

    /// What can be done to a request that the server does not have.
    fn check_window(&self) -> Result<(), String> {
        if self.page.is_some() && self.phase != Phase::Copying {
            return Err("a page belongs to the phase 'copying'".to_owned());
        }
        if !Phase::KERNEL.contains(&self.phase) {
            return Ok(());
        }
        if !matches!(self.action, Action::Park | Action::Delay(_)) {
            return Err(format!("at '{}' a request can be parked or delayed only", self.phase));
        }
        let chooses = [self.nth, self.every, self.count].iter().any(Option::is_some);
        if self.phase == Phase::Queued && (chooses || self.millionths.is_some()) {
            return Err(
                "'queued' holds what comes next, once: nth, every, count and a probability \
                        mean nothing there"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), String> {
        let bad = |text: String| Err(text);
        if self.ttl_ms == 0 || self.action.holds() && self.ttl_ms > TTL_MAX_MS {
            return bad(format!("ttl_ms is {}, must be 1 to {TTL_MAX_MS}", self.ttl_ms));
        }
        if [self.nth, self.count, self.every].contains(&Some(0)) {
            return bad("nth, every and count start at 1".to_owned());
        }
        if self.len == Some(0) {
            return bad("a range of 0 bytes overlaps nothing".to_owned());
        }
        let files = [self.ino.is_some(), self.path.is_some(), self.glob.is_some()];
        if files.iter().filter(|given| **given).count() > 1 {
            return bad("give ino, path or glob, not two of them".to_owned());
        }
        if self.comm.as_ref().is_some_and(|comm| comm.len() > COMM_MAX) {
            return bad(format!("comm has at most {COMM_MAX} bytes"));
        }
        match (self.millionths, self.seed) {
            (Some(0), _) => return bad("a probability of 0 never acts".to_owned()),
            (Some(parts), _) if parts > MILLION => {
                return bad(format!("a probability has at most {MILLION} millionths"));
            }
            (Some(_), None) => return bad("a probability needs a seed".to_owned()),
            _ => {}
        }
        match self.action {
            Action::Torn(_) | Action::Corrupt(_) if self.phase != Phase::Received => {
                bad(format!("data is changed at {}, not at {}", Phase::Received, self.phase))
            }
            Action::Corrupt(0) => bad("0 bits change nothing".to_owned()),
            Action::Bandwidth(0) => {
                bad("a bandwidth of 0 lets nothing through; drop does that".to_owned())
            }
            Action::Delay(ms) if ms == 0 || ms > TTL_MAX_MS => {
                bad(format!("delay is {ms} ms, must be 1 to {TTL_MAX_MS}"))
            }
            Action::Fail(errno) if !(1..4096).contains(&errno) => {
                bad(format!("errno is {errno}, must be 1 to 4095"))
            }
            _ => Ok(()),
        }
    }
}

/// Longest name of a thread: TASK_COMM_LEN of linux/sched.h less its terminator.
const COMM_MAX: usize = 15;

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

#[cfg(test)]
mod tests {
    use super::*;

    fn armed(rule: Rule) -> Armed {
        rule.arm().unwrap()
    }

    /// As [`Armed::take`], where no names are known.
    impl Armed {
        fn takes(&mut self, subject: &Subject, phase: Phase) -> bool {
            self.take(subject, phase, &Names::default())
        }
    }

    fn read(offset: u64, len: u64) -> Subject {
        Subject { opcode: Opcode::READ, ino: 5, offset, len, ..Subject::default() }
    }

    #[test]
    fn a_range_matches_what_overlaps_it_and_nothing_else() {
        let mut rule = armed(Rule::at(Phase::Received).op("read").range(4096, 4096));
        assert!(!rule.takes(&read(0, 4096), Phase::Received), "ends where the range starts");
        assert!(rule.takes(&read(0, 4097), Phase::Received));
        assert!(rule.takes(&read(8191, 1), Phase::Received));
        assert!(!rule.takes(&read(8192, 1), Phase::Received));
        assert!(!rule.takes(&read(4096, 1), Phase::Applied), "another phase");
    }

    #[test]
    fn an_open_range_reaches_to_the_end() {
        let mut rule = Rule::at(Phase::Received);
        rule.offset = Some(8192);
        let mut rule = armed(rule);
        assert!(rule.takes(&read(u64::MAX - 1, 4096), Phase::Received));
        assert!(!rule.takes(&read(0, 8192), Phase::Received));
    }

    #[test]
    fn setattr_matches_a_range_by_its_new_size() {
        let mut rule = armed(Rule::at(Phase::Received).range(0, 4096));
        let mut truncate = Subject { opcode: Opcode::SETATTR, ..Subject::default() };
        assert!(!rule.takes(&truncate, Phase::Received), "a chmod has no size");
        truncate.size = Some(100);
        assert!(rule.takes(&truncate, Phase::Received));
        truncate.size = Some(4096);
        assert!(!rule.takes(&truncate, Phase::Received));
    }

    #[test]
    fn a_copy_is_meant_however_the_kernel_sends_it() {
        let mut rule = armed(Rule::at(Phase::Received).op("copy_file_range"));
        for opcode in [Opcode::COPY_FILE_RANGE, Opcode::COPY_FILE_RANGE_64] {
            assert!(rule.takes(&Subject { opcode, ..read(0, 1) }, Phase::Received));
        }
        let mut new = armed(Rule::at(Phase::Received).op("copy_file_range_64"));
        let old = Subject { opcode: Opcode::COPY_FILE_RANGE, ..read(0, 1) };
        assert!(!new.takes(&old, Phase::Received));
    }

    #[test]
    fn nth_and_count_select_a_window_of_matches() {
        let mut rule = armed(Rule::at(Phase::Received).nth(2).count(2));
        let taken: Vec<_> = (0..5).map(|_| rule.takes(&read(0, 1), Phase::Received)).collect();
        assert_eq!(taken, [false, true, true, false, false]);
    }

    #[test]
    fn rules_that_cannot_be_meant_are_refused() {
        let base = || Rule::at(Phase::Received);
        for (rule, text) in [
            (base().ttl_ms(0), "ttl_ms is 0"),
            (base().ttl_ms(TTL_MAX_MS + 1), "ttl_ms is 600001"),
            (base().nth(0), "start at 1"),
            (base().range(0, 0), "0 bytes"),
            (base().op("lookup").range(0, 1), "'lookup' requests have no byte range"),
            (base().ino(1).path("/a"), "not two"),
            (base().path("/a").glob("b"), "not two"),
            (base().glob("a["), "a["),
            (base().action(Action::Drop).ttl_ms(TTL_UNBOUNDED_MS), "ttl_ms is"),
            (Rule { millionths: Some(5), ..base() }, "needs a seed"),
            (Rule { every: Some(0), ..base() }, "start at 1"),
            (base().action(Action::Fail(0)), "errno is 0"),
            (base().action(Action::Delay(0)), "delay is 0"),
            (base().op("reed"), "nearest: read"),
            (base().op("fsync").action(Action::Torn(512)), "of these: write"),
            (base().op("lookup").action(Action::Bandwidth(1)), "of these: read,write"),
            (Rule::at(Phase::Applied).action(Action::Corrupt(1)), "at received, not at applied"),
            (base().action(Action::Corrupt(0)), "0 bits"),
            (base().action(Action::Bandwidth(0)), "drop does that"),
        ] {
            let error = rule.arm().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_bandwidth_is_shared_by_what_comes_one_after_the_other() {
        let mut rule = armed(Rule::at(Phase::Received).action(Action::Bandwidth(1_000)));
        assert_eq!(rule.slot(1_000, 500, 10), 500_000_010);
        assert_eq!(rule.slot(1_000, 500, 10), 1_000_000_010, "behind the first");
        assert_eq!(rule.slot(1_000, 1, 5_000_000_000), 5_001_000_000, "what was not used is gone");
        let far = rule.slot(1, u64::MAX, 0);
        assert_eq!(far, TTL_MAX_MS * 1_000_000, "nobody waits for longer than a rule may hold");
        assert!(
            !rule.takes(&Subject { opcode: Opcode::FSYNC, ..Subject::default() }, Phase::Received)
        );
    }

    #[test]
    fn an_unknown_name_gets_the_nearest() {
        let text = kind::list("raed").unwrap_err().to_string();
        assert!(text.starts_with("unknown request 'raed'; nearest: read,"), "{text}");
        assert_eq!(kind::list("FUSE_READ").unwrap()[0].opcode, Opcode::READ);
        assert_eq!(kind::list("Copy-File-Range").unwrap()[0].opcode, Opcode::COPY_FILE_RANGE);
    }

    #[test]
    fn every_counts_from_the_nth_match() {
        let taken = |rule: Rule| -> Vec<u64> {
            let mut rule = armed(rule);
            (1..=9).filter(|_| rule.takes(&read(0, 1), Phase::Received)).collect()
        };
        let every = |nth| Rule { every: Some(3), nth, ..Rule::at(Phase::Received) };
        assert_eq!(taken(every(None)), [3, 6, 9]);
        assert_eq!(taken(every(Some(1))), [1, 4, 7]);
        assert_eq!(taken(every(Some(2)).count(2)), [2, 5]);
    }

    #[test]
    fn the_same_seed_chooses_the_same_matches() {
        let chosen = |seed| -> Vec<u32> {
            let rule =
                Rule { millionths: Some(250_000), seed: Some(seed), ..Rule::at(Phase::Received) };
            let mut rule = armed(rule);
            (0..400).filter(|_| rule.takes(&read(0, 1), Phase::Received)).collect()
        };
        assert_eq!(chosen(7), chosen(7));
        assert_ne!(chosen(7), chosen(8));
        // 100 expected, sigma 8.7.
        assert!((50..150).contains(&chosen(7).len()), "{}", chosen(7).len());
    }

    #[test]
    fn fdatasync_is_apart_from_fsync() {
        let sync = |data_only| Subject { opcode: Opcode::FSYNC, data_only, ..Subject::default() };
        for (ops, full, data) in [
            ("fsync", true, false),
            ("fdatasync", false, true),
            ("read,fsync, fdatasync", true, true),
        ] {
            let mut rule = armed(Rule::at(Phase::Received).op(ops));
            assert_eq!(rule.takes(&sync(false), Phase::Received), full, "{ops}");
            assert_eq!(rule.takes(&sync(true), Phase::Received), data, "{ops}");
        }
    }

    #[test]
    fn who_asks_is_compared() {
        let us = std::process::id();
        let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
        let subject = Subject { pid: us, uid: 7, ..read(0, 1) };
        let of = |rule: Rule| armed(rule).takes(&subject, Phase::Received);
        let base = || Rule::at(Phase::Received);
        assert!(of(Rule { pid: Some(us), uid: Some(7), ..base() }));
        assert!(of(Rule { comm: Some(comm.trim_end().to_owned()), ..base() }));
        assert!(!of(Rule { pid: Some(us + 1), ..base() }));
        assert!(!of(Rule { uid: Some(8), ..base() }));
        assert!(!of(Rule { comm: Some("nobody".to_owned()), ..base() }));
    }

    #[test]
    fn a_thread_is_of_its_process() {
        let rule = Rule { pid: Some(std::process::id()), ..Rule::at(Phase::Received) };
        // It is asked about while it lives.
        let (held, hold) = std::sync::mpsc::channel::<()>();
        let (told, tell) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let _ = told.send(nix::unistd::gettid().as_raw() as u32);
            let _ = hold.recv();
        });
        let subject = Subject { pid: tell.recv().unwrap(), ..read(0, 1) };
        assert!(armed(rule).takes(&subject, Phase::Received));
        drop(held);
        let _ = thread.join();
    }

    #[test]
    fn json_names_errnos() {
        let rule: Rule =
            serde_json::from_str(r#"{"op":"write","action":{"fail":"ENOSPC"}}"#).unwrap();
        assert_eq!(rule.action, Action::Fail(28));
        let rule: Rule = serde_json::from_str(r#"{"action":{"fail":5}}"#).unwrap();
        assert_eq!((rule.action, rule.phase), (Action::Fail(5), Phase::Received));
        let wrong = serde_json::from_str::<Rule>(r#"{"action":{"fail":"EWRONG"}}"#).unwrap_err();
        assert!(wrong.to_string().contains("EWRONG"), "{wrong}");
    }
}
