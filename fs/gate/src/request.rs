//! What the gate knows of a request: who asks for what, how far it got, how it goes on.

use inflight_fuse::Name;
use inflight_fuse::abi::Opcode;
use serde::{Deserialize, Serialize};

/// How far a request got. The first five come in this order; a request need not have all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing was done.
    Received,
    /// Buffers are taken and pages pinned, no device I/O has started.
    Prepared,
    /// The operation was done, no reply was made.
    Applied,
    /// The reply's data is in a pipe and not yet spliced into /dev/fuse.
    Piped,
    /// The server's answer has come to the proxy and not yet gone to the kernel.
    Replied,
    /// The client has sent it and the server has not read it: nothing is received while a rule holds this window open.
    /// Before all other phases.
    Queued,
    /// The kernel is in the middle of copying it: a WRITE's data into the server's buffer, before `received`, or a
    /// READ's out of it, after `piped`.
    Copying,
}

impl Phase {
    /// Phases of a server that has the gate built in, in order.
    pub const ALL: [Phase; 4] = [Phase::Received, Phase::Prepared, Phase::Applied, Phase::Piped];

    /// Phases of a server behind the [proxy](crate::proxy), which sees no more of it, in order.
    pub const PROXY: [Phase; 2] = [Phase::Received, Phase::Replied];

    /// Windows that lie in the kernel. A server whose requests come by /dev/fuse has them: [`Gate::guard`](crate::Gate::guard).
    pub const KERNEL: [Phase; 2] = [Phase::Queued, Phase::Copying];

    /// The name that rules and logs use.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Received => "received",
            Phase::Prepared => "prepared",
            Phase::Applied => "applied",
            Phase::Piped => "piped",
            Phase::Replied => "replied",
            Phase::Queued => "queued",
            Phase::Copying => "copying",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A FUSE request as the gate sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// `fuse_in_header.unique`.
    pub unique: u64,
    /// `fuse_in_header.opcode`.
    pub opcode: Opcode,
    /// `fuse_in_header.nodeid`: the inode, or the parent directory of a request by name.
    pub ino: u64,
    /// First byte of the range, 0 for requests without one.
    pub offset: u64,
    /// Bytes of the range, 0 for requests without one.
    pub len: u64,
    /// Process that asks, 0 when the kernel does (readahead, write-back).
    pub pid: u32,
    /// User that asks.
    pub uid: u32,
    /// New size in bytes of a SETATTR that changes it.
    pub size: Option<u64>,
    /// Names that a request by name is about, each with its directory: two of a rename.
    pub names: Vec<(u64, Name)>,
    /// Of an FSYNC: it is fdatasync(2).
    pub data_only: bool,
}

impl Default for Subject {
    /// Of no opcode.
    fn default() -> Subject {
        Subject {
            unique: 0,
            opcode: Opcode(0),
            ino: 0,
            offset: 0,
            len: 0,
            pid: 0,
            uid: 0,
            size: None,
            names: Vec::new(),
            data_only: false,
        }
    }
}

/// How a request goes on after a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// As if there were no gate.
    Go,
    /// Answer with this errno (positive). At `received` nothing is done; later, what was done stays.
    Fail(i32),
    /// Do and answer at most this many bytes. At `received` and `prepared` a WRITE writes no more than
    /// that; later only the reply is cut.
    Short(u32),
    /// Write at most this many bytes, and answer that all were written. Of a WRITE, at `received`.
    Torn(u32),
    /// Turn over this many bits of what is read or written ([`flip`]). Of a READ or WRITE, at `received`.
    Corrupt(u32),
    /// Never answer. The requester waits until the connection is aborted.
    Drop,
}

/// Turns over so many bits of data: the lowest of bytes that lie evenly in it, of a single one that in the middle. Data of fewer
/// bytes has each of them changed.
pub fn flip(data: &mut [u8], bits: u32) {
    let (len, bits) = (data.len(), (bits as usize).min(data.len()));
    for bit in 0..bits {
        data[len * (2 * bit + 1) / (2 * bits)] ^= 1;
    }
}

/// Who let a parked request go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleasedBy {
    /// A client's command.
    Client,
    /// The end of a rule's delay.
    Delay,
    /// The end of a rule's time, or of the connection that owned it. Voids a verdict.
    Watchdog,
    /// The end of the gate itself, at unmount. Voids a verdict.
    Shutdown,
    /// Another request was in front of the one that was meant to be `queued`. Voids a verdict.
    Overtaken,
}
