//! The control protocol: one JSON object a line, one answer for each request, in order.
//!
//! The socket is a Unix stream socket. A client starts with `hello`; everything else may follow in
//! any order. Numbers named `id` or `seq` are a request's number of arrival, `rule` is a rule's number.
//!
//! ```text
//! > {"cmd":"hello","version":1}
//! < {"answer":"hello","version":1,"pid":812,"start_ns":5120034}
//! > {"cmd":"park","rule":{"op":"read","path":"/a","phase":"received","ttl_ms":10000}}
//! < {"answer":"rule","rule":1}
//! > {"cmd":"wait","rule":1,"parked":1,"timeout_ms":5000}
//! < {"answer":"waited","reached":true,"parked":[{"id":9,"rule":1,"op":"read",...}]}
//! > {"cmd":"release","id":9}
//! < {"answer":"released","count":1}
//! > {"cmd":"log","since":0,"max":1000}
//! < {"answer":"log","records":[...],"open":[...],"lost":0,"next":4}
//! ```
//!
//! * A [`Rule`] parks by default. `"action":{"delay":50}` holds for 50 ms, `{"fail":5}` answers EIO,
//!   `{"short":100}` lets at most 100 bytes through; these need no further command.
//! * Rules are tried in the order in which they were made; every rule that matches counts the
//!   match, the first that is due acts.
//! * `wait` blocks in the server until `parked` requests are parked (by `rule`, or at all), or until the
//!   request `done` is over: a rendezvous without sleeping. When `timeout_ms` ends first, `reached`
//!   is false. `log` with `follow_ms` blocks until a record is there.
//! * A rule belongs to the connection that made it, unless `detached`. When the connection closes, or
//!   `ttl_ms` ends, the rule goes and the watchdog releases what it parked.
//! * A rule at phase `queued` stops the server's receiving when it is made, and what waits then is parked with no more known of it
//!   than that (`op` is `?`). Released, it is read before any other: if the rule matches, that is the request of this id; if
//!   not, the hold is `overtaken` and the outcome `withdrawn`. It holds once. At `copying`, `page` says where the kernel stops.
//! * `notify` has the kernel told something: `"notice":"resend"`, `"notice":{"inval":{"ino":5,"offset":0,"len":0}}`, or `inval_entry`,
//!   `store` or `retrieve`. A `retrieve` is answered with a number, by which `retrieved` gives what came. `node` tells the node
//!   id of a path.
//! * Times in records are ns since the gate started; `start_ns` of `hello` is that moment on
//!   CLOCK_MONOTONIC, so a client can put its own events on the same axis.
//! * A request that cannot be served gets `{"answer":"error","message":...}`, and the connection goes on.

use serde::{Deserialize, Serialize};

use super::log::Record;
use super::{Notice, Phase, Rule};

/// Version of the protocol. A server refuses every other one.
pub const VERSION: u32 = 1;

/// Longest line that a server reads, in bytes.
pub const LINE_MAX: usize = 65_536;

/// Longest `timeout_ms` and `follow_ms`, in milliseconds; longer ones are cut.
pub const WAIT_MAX_MS: u64 = 600_000;

/// Most records in one answer.
pub const LOG_MAX: usize = 4_096;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Request {
    /// Opens the conversation.
    Hello {
        /// Version that the client speaks.
        version: u32,
    },
    /// Makes a rule.
    Park {
        /// The rule.
        rule: Box<Rule>,
    },
    /// Asks for rules and parked requests.
    List,
    /// Waits until so many requests are parked, or until a request is over. At least one of the two.
    Wait {
        /// Count only requests that this rule parked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<u64>,
        /// How many must be parked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parked: Option<u64>,
        /// Which request must be over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        done: Option<u64>,
        /// How long to wait, in milliseconds.
        timeout_ms: u64,
    },
    /// Lets parked requests go: one, those of a rule, or all. Exactly one of the three. Rules stay.
    Release {
        /// This one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        /// Those that this rule parked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<u64>,
        /// All of them.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        all: bool,
    },
    /// Lets a parked request go with an errno as its answer.
    Fail {
        /// Which one.
        id: u64,
        /// Positive errno, 1 to 4095.
        errno: i32,
    },
    /// Lets a parked request go with at most this many bytes.
    Short {
        /// Which one.
        id: u64,
        /// Bytes.
        bytes: u32,
    },
    /// Does not answer a parked request until its rule ends or it is released, and then with EIO.
    Drop {
        /// Which one.
        id: u64,
    },
    /// Removes a rule and releases what it parked.
    Unpark {
        /// Which one.
        rule: u64,
    },
    /// Removes every rule and releases everything.
    Open,
    /// Asks the server behind the gate something that is not the gate's business.
    Ask {
        /// In the words of that server.
        what: String,
    },
    /// Has the kernel told something unasked.
    Notify {
        /// What.
        notice: Notice,
        /// How long to wait until it took it, in milliseconds: it may wait for a request in flight.
        timeout_ms: u64,
    },
    /// Asks for what a RETRIEVE brought, once.
    Retrieved {
        /// The number in the answer to it.
        number: u64,
        /// How long to wait for it, in milliseconds.
        timeout_ms: u64,
    },
    /// Asks for the node id of a path below the mount's root.
    Node {
        /// The path, e.g. `/folder/file`.
        path: String,
    },
    /// Asks for the request log.
    Log {
        /// `next` of the last answer; 0 for the oldest that is kept.
        since: u64,
        /// Most records wanted; cut to [`LOG_MAX`].
        max: usize,
        /// Wait so long for a record when there is none, in milliseconds.
        #[serde(default)]
        follow_ms: u64,
    },
}

/// What the server answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Answer {
    /// To `hello`.
    Hello {
        /// Version that the server speaks.
        version: u32,
        /// Process of the server.
        pid: u32,
        /// CLOCK_MONOTONIC when the gate started, in ns.
        start_ns: u64,
    },
    /// To `park`.
    Rule {
        /// Number of the new rule.
        rule: u64,
    },
    /// To `list`.
    List {
        /// Rules in force.
        rules: Vec<RuleInfo>,
        /// Parked requests, oldest first.
        parked: Vec<ParkedInfo>,
        /// Requests that the watchdog released since the gate started.
        watchdog_releases: u64,
        /// Number of the last request that arrived.
        last_seq: u64,
    },
    /// To `wait`.
    Waited {
        /// Whether it came to what was waited for.
        reached: bool,
        /// What is parked now (by the rule that was asked for).
        parked: Vec<ParkedInfo>,
    },
    /// To `release`, `fail`, `short`, `drop`, `unpark` and `open`.
    Released {
        /// How many requests went on.
        count: u64,
    },
    /// To `log`.
    Log {
        /// Finished requests in the order in which they finished.
        records: Vec<Record>,
        /// Requests that are not finished, in the order in which they arrived.
        open: Vec<Record>,
        /// Records that were dropped before they were asked for.
        lost: u64,
        /// `since` of the next request.
        next: u64,
    },
    /// To `notify`.
    Notified {
        /// Whether the kernel took or refused it within the time.
        is_over: bool,
        /// With what it was refused.
        errno: Option<i32>,
        /// Number of a RETRIEVE.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        number: Option<u64>,
    },
    /// To `retrieved`.
    Retrieved {
        /// What came, if it did within the time.
        data: Option<Vec<u8>>,
    },
    /// To `node`.
    Node {
        /// Its node id.
        ino: u64,
    },
    /// To `ask`.
    Told {
        /// What the server said.
        text: String,
    },
    /// To anything that cannot be served.
    Error {
        /// What was wrong, for people.
        message: String,
    },
}

/// A rule in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// Its number.
    pub id: u64,
    /// The rule as it was made.
    pub rule: Rule,
    /// Node that it matches, from `ino` or `path`.
    pub ino: Option<u64>,
    /// Requests that matched.
    pub matched: u64,
    /// Requests that were acted on.
    pub acted: u64,
    /// Requests that it holds now.
    pub parked: u64,
    /// Milliseconds until the watchdog ends it.
    pub left_ms: u64,
}

/// A parked request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedInfo {
    /// Its number of arrival.
    pub id: u64,
    /// Rule that holds it.
    pub rule: u64,
    /// `fuse_in_header.unique`.
    pub unique: u64,
    /// Opcode by name.
    pub op: String,
    /// Node id.
    pub ino: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes of the range.
    pub len: u64,
    /// Process that asked.
    pub pid: u32,
    /// Where it is parked.
    pub phase: Phase,
    /// Milliseconds since it was parked.
    pub age_ms: u64,
}
