//! What can go wrong with a gate.

use std::path::PathBuf;

/// An error of the gate, its server or its client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// The socket file does not exist.
    #[error("{}: no such gate socket; is the filesystem mounted with --gate {}?", .0.display(), .0.display())]
    NoSocket(PathBuf),
    /// The socket file is there, and no process listens on it.
    #[error("{}: nobody listens on this gate socket; its server has ended, mount again with --gate", .0.display())]
    NobodyListens(PathBuf),
    /// Another server listens on the socket that we were asked to create.
    #[error("{}: another server listens on this gate socket; choose another path", .0.display())]
    InUse(PathBuf),
    /// The path exists and is no socket.
    #[error("{}: is there and is not a socket; choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The path does not fit into `sun_path`.
    #[error("{}: a socket path has at most {max} bytes, this one has {}", path.display(), path.as_os_str().len())]
    PathTooLong {
        /// The refused path.
        path: PathBuf,
        /// Longest path that is accepted, in bytes.
        max: usize,
    },
    /// No FUSE request has this name.
    #[error("unknown request '{name}'; nearest: {nearest}")]
    UnknownOp {
        /// What was asked for.
        name: String,
        /// Up to three known names, comma separated.
        nearest: String,
    },
    /// A rule that could not be meant.
    #[error("bad rule: {0}")]
    BadRule(String),
    /// A `path` in a rule that does not exist in the mount.
    #[error("{0}: no such file in the mount (a rule's path starts at the mount's root)")]
    NoSuchPath(String),
    /// No parked request has this id.
    #[error("request {0} is not parked; see `list`")]
    NoSuchRequest(u64),
    /// No rule has this id.
    #[error("rule {0} does not exist (its time may be up); see `list`")]
    NoSuchRule(u64),
    /// The table of rules is full.
    #[error("there are {0} rules already, which is the most a gate keeps; open or unpark some")]
    TooManyRules(usize),
    /// The gate is being shut down.
    #[error("the gate is closed: its filesystem is being unmounted")]
    Closed,
    /// Client and server speak different versions of the protocol.
    #[error(
        "the server speaks gate protocol {server}, this program {client}; use the same release"
    )]
    Version {
        /// Version of the server.
        server: u32,
        /// Version of this program.
        client: u32,
    },
    /// The server refused a command and says why.
    #[error("{0}")]
    Refused(String),
    /// A line that is not part of the protocol.
    #[error("gate protocol: {0}")]
    Protocol(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the object's name.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl GateError {
    /// Wraps an I/O error with what was being done.
    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> GateError {
        GateError::Io { what: what.into(), source }
    }
}
