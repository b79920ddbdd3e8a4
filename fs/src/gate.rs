//! The gate: parks FUSE requests, so that a race window stays open as long as a test wants.
//!
//! The gate stands between a transport and the operations of a FUSE server. It knows FUSE requests
//! (opcode, node id, byte range) and nothing of the filesystem behind it. A request passes up to
//! four [`Phase`]s; at each one a [`Rule`] may park it. A parked request is a boxed continuation in
//! a table: it holds no worker and no lock, so any number can be parked while the rest of the mount
//! works.
//!
//! ```no_run
//! use inflight::gate::{self, Decision, Finish, Gate, Phase, Subject};
//! # fn resolve(_: &std::path::Path) -> Option<u64> { None }
//! # fn read_and_reply(_: Decision) -> Result<u64, i32> { Ok(0) }
//! # fn main() -> Result<(), gate::GateError> {
//! // At mount, in the process that serves (threads do not survive a fork into the background):
//! let gate = Some(Gate::listen("/run/a.gate".as_ref(), Box::new(resolve))?);
//!
//! // For each request; `None` is a mount without a gate, which pays nothing:
//! let subject = Subject { unique: 7, opcode: gate::opcode::READ, ino: 2, len: 4096, ..Subject::default() };
//! let ticket = gate.as_ref().map(|gate| gate.arrive(subject));
//! gate::pass(ticket, Phase::Received, |mut ticket, decision| {
//!     ticket.note_path("copy");
//!     ticket.done(read_and_reply(decision));
//! });
//! # Ok(()) }
//! ```
//!
//! Lock order: there is one lock, the state of a [`Gate`]. Continuations, `resolve` and every socket
//! call run outside it.
//!
//! * [`wire`] documents the control protocol (JSON lines on a Unix socket).
//! * [`Client`] speaks it; [`cli`] is `inflight gate SOCKET ...`.
//! * A watchdog removes a rule when its time is up or its connection closes, and releases what it
//!   parked. Such a release is logged as [`ReleasedBy::Watchdog`] and voids a test's verdict.

pub mod cli;
mod client;
mod error;
mod log;
pub mod opcode;
mod request;
mod rule;
mod server;
mod table;
mod ticket;
mod watchdog;
pub mod wire;

pub use client::{Client, Listing, LogPage, Wait};
pub use error::GateError;
pub use log::{Hold, Outcome, Record, Times};
pub use request::{Decision, Phase, ReleasedBy, Subject};
pub use rule::{Action, Rule, TTL_DEFAULT_MS, TTL_MAX_MS};
pub use table::{Gate, Resolve};
pub use ticket::{Finish, Ticket, pass};
