//! Rules: which requests are stopped, where, and for how long.

use serde::{Deserialize, Serialize};

use super::{Phase, errno};

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
    /// Kinds of requests by name, separated by commas, e.g. `read,write`: those of
    /// [`Opcode::TABLE`](inflight_fuse::abi::Opcode::TABLE), and `fdatasync` for what the opcode calls `fsync`, which then
    /// means fsync(2) alone.
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

    /// What can be done to a request that the server does not have.
    pub(super) fn check_window(&self) -> Result<(), String> {
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

    pub(super) fn check_numbers(&self) -> Result<(), String> {
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

#[cfg(test)]
mod tests;
