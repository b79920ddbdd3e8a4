//! Rules: which requests are stopped, where, and for how long.

use serde::{Deserialize, Serialize};

use super::{GateError, Phase, Subject};
use inflight_fuse::abi::Opcode;

/// Life of a rule that does not say otherwise, in milliseconds.
pub const TTL_DEFAULT_MS: u64 = 10_000;
/// Longest life of a rule, in milliseconds.
pub const TTL_MAX_MS: u64 = 600_000;

/// What a rule does with a request that it matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Hold it until somebody releases it.
    #[default]
    Park,
    /// Hold it for this many milliseconds.
    Delay(u64),
    /// Let it go on at once with an errno as its answer.
    Fail(i32),
    /// Let it go on at once with at most this many bytes.
    Short(u32),
}

/// Which requests are stopped, and where. Every field that is set must match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Opcode by name, e.g. `read`; see [`Opcode::TABLE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// Node id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ino: Option<u64>,
    /// Path below the mount's root, looked up once, when the rule is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// First byte of a range that the request must overlap (default 0 when `len` is set).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes of that range (default: to the end when `offset` is set). Not 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub len: Option<u64>,
    /// The first matching request that is acted on, counted from 1 (default 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// How many requests are acted on (default: all).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Where the request is stopped.
    pub phase: Phase,
    /// What is done with it.
    #[serde(default)]
    pub action: Action,
    /// Life of the rule in milliseconds, 1 to [`TTL_MAX_MS`].
    #[serde(default = "ttl_default")]
    pub ttl_ms: u64,
    /// Whether the rule outlives the connection that made it.
    #[serde(default)]
    pub detached: bool,
}

fn ttl_default() -> u64 {
    TTL_DEFAULT_MS
}

impl Rule {
    /// A rule that parks every request at `phase`; narrow it with the other methods.
    pub fn at(phase: Phase) -> Rule {
        Rule {
            op: None,
            ino: None,
            path: None,
            offset: None,
            len: None,
            nth: None,
            count: None,
            phase,
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

    /// Checks everything that can be checked without a filesystem, and looks the opcode up.
    ///
    /// # Errors
    /// [`GateError::UnknownOp`] and [`GateError::BadRule`].
    pub(super) fn check(&self) -> Result<Option<Opcode>, GateError> {
        let bad = |text: String| Err(GateError::BadRule(text));
        if self.ttl_ms == 0 || self.ttl_ms > TTL_MAX_MS {
            return bad(format!("ttl_ms is {}, must be 1 to {TTL_MAX_MS}", self.ttl_ms));
        }
        if self.nth == Some(0) || self.count == Some(0) {
            return bad("nth and count start at 1".to_owned());
        }
        if self.len == Some(0) {
            return bad("a range of 0 bytes overlaps nothing".to_owned());
        }
        if self.ino.is_some() && self.path.is_some() {
            return bad("give ino or path, not both".to_owned());
        }
        match self.action {
            Action::Delay(ms) if ms == 0 || ms > TTL_MAX_MS => {
                return bad(format!("delay is {ms} ms, must be 1 to {TTL_MAX_MS}"));
            }
            Action::Fail(errno) if !(1..4096).contains(&errno) => {
                return bad(format!("errno is {errno}, must be 1 to 4095"));
            }
            _ => {}
        }
        let number = self.op.as_deref().map(opcode).transpose()?;
        let ranged = self.offset.is_some() || self.len.is_some();
        if let Some(number) = number
            && ranged
            && !has_range(number)
        {
            return bad(format!("'{number}' requests have no byte range"));
        }
        Ok(number)
    }
}

/// A rule in force: the rule, resolved, with its counters.
#[derive(Debug)]
pub(super) struct Armed {
    pub rule: Rule,
    /// Opcode that must match.
    pub opcode: Option<Opcode>,
    /// Node that must match, from `ino` or `path`.
    pub ino: Option<u64>,
    /// Connection that made the rule; `None` when detached.
    pub owner: Option<u64>,
    /// When the rule ends, in ns of the gate's clock.
    pub ends_ns: u64,
    /// Requests that matched so far.
    pub matched: u64,
    /// Requests that were acted on so far.
    pub acted: u64,
}

impl Armed {
    /// Whether this rule acts on the request that now reaches `phase`. Counts the match.
    pub fn take(&mut self, subject: &Subject, phase: Phase) -> bool {
        if phase != self.rule.phase || !self.matches(subject) {
            return false;
        }
        self.matched += 1;
        let due = self.matched >= self.rule.nth.unwrap_or(1);
        let left = self.rule.count.is_none_or(|count| self.acted < count);
        if due && left {
            self.acted += 1;
        }
        due && left
    }

    fn matches(&self, subject: &Subject) -> bool {
        self.opcode.is_none_or(|opcode| is_meant(opcode, subject.opcode))
            && self.ino.is_none_or(|ino| ino == subject.ino)
            && self.overlaps(subject)
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

/// Whether a rule that names `named` means a request of the kind `came`: the kernel sends copies as
/// COPY_FILE_RANGE_64 first (fuse.h, since 7.45), and whoever names the older one means both.
fn is_meant(named: Opcode, came: Opcode) -> bool {
    named == came || named == Opcode::COPY_FILE_RANGE && came == Opcode::COPY_FILE_RANGE_64
}

/// The opcode of a name.
///
/// # Errors
/// [`GateError::UnknownOp`] with the nearest names.
fn opcode(name: &str) -> Result<Opcode, GateError> {
    name.parse().map_err(|_| {
        let distance = |known: &str| strsim::damerau_levenshtein(known, &name.to_lowercase());
        let mut near: Vec<_> = Opcode::TABLE.iter().map(|(_, n)| (distance(n), *n)).collect();
        near.sort_unstable();
        let nearest: Vec<_> = near.iter().take(3).map(|(_, name)| *name).collect();
        GateError::UnknownOp { name: name.to_owned(), nearest: nearest.join(", ") }
    })
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
        let opcode = rule.check().unwrap();
        let ino = rule.ino;
        Armed { rule, opcode, ino, owner: None, ends_ns: 0, matched: 0, acted: 0 }
    }

    fn read(offset: u64, len: u64) -> Subject {
        Subject { opcode: Opcode::READ, ino: 5, offset, len, ..Subject::default() }
    }

    #[test]
    fn a_range_matches_what_overlaps_it_and_nothing_else() {
        let mut rule = armed(Rule::at(Phase::Received).op("read").range(4096, 4096));
        assert!(!rule.take(&read(0, 4096), Phase::Received), "ends where the range starts");
        assert!(rule.take(&read(0, 4097), Phase::Received));
        assert!(rule.take(&read(8191, 1), Phase::Received));
        assert!(!rule.take(&read(8192, 1), Phase::Received));
        assert!(!rule.take(&read(4096, 1), Phase::Applied), "another phase");
    }

    #[test]
    fn an_open_range_reaches_to_the_end() {
        let mut rule = Rule::at(Phase::Received);
        rule.offset = Some(8192);
        let mut rule = armed(rule);
        assert!(rule.take(&read(u64::MAX - 1, 4096), Phase::Received));
        assert!(!rule.take(&read(0, 8192), Phase::Received));
    }

    #[test]
    fn setattr_matches_a_range_by_its_new_size() {
        let mut rule = armed(Rule::at(Phase::Received).range(0, 4096));
        let mut truncate = Subject { opcode: Opcode::SETATTR, ..Subject::default() };
        assert!(!rule.take(&truncate, Phase::Received), "a chmod has no size");
        truncate.size = Some(100);
        assert!(rule.take(&truncate, Phase::Received));
        truncate.size = Some(4096);
        assert!(!rule.take(&truncate, Phase::Received));
    }

    #[test]
    fn a_copy_is_meant_however_the_kernel_sends_it() {
        let mut rule = armed(Rule::at(Phase::Received).op("copy_file_range"));
        for opcode in [Opcode::COPY_FILE_RANGE, Opcode::COPY_FILE_RANGE_64] {
            assert!(rule.take(&Subject { opcode, ..read(0, 1) }, Phase::Received));
        }
        let mut new = armed(Rule::at(Phase::Received).op("copy_file_range_64"));
        let old = Subject { opcode: Opcode::COPY_FILE_RANGE, ..read(0, 1) };
        assert!(!new.take(&old, Phase::Received));
    }

    #[test]
    fn nth_and_count_select_a_window_of_matches() {
        let mut rule = armed(Rule::at(Phase::Received).nth(2).count(2));
        let taken: Vec<_> = (0..5).map(|_| rule.take(&read(0, 1), Phase::Received)).collect();
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
            (base().ino(1).path("/a"), "not both"),
            (base().action(Action::Fail(0)), "errno is 0"),
            (base().action(Action::Delay(0)), "delay is 0"),
            (base().op("reed"), "nearest: read"),
        ] {
            let error = rule.check().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn an_unknown_name_gets_the_nearest() {
        let text = opcode("raed").unwrap_err().to_string();
        assert!(text.starts_with("unknown request 'raed'; nearest: read,"), "{text}");
        assert_eq!(opcode("FUSE_READ").unwrap(), Opcode::READ);
        assert_eq!(opcode("Copy-File-Range").unwrap(), Opcode::COPY_FILE_RANGE);
    }
}
