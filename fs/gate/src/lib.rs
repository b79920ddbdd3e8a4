//! The gate: parks FUSE requests, so that a race window stays open as long as a test wants.
//!
//! The gate stands between a transport and the operations of a FUSE server. It knows FUSE requests
//! (opcode, node id, byte range) and nothing of the filesystem behind it. A request passes up to
//! four [`Phase`]s; at each one a [`Rule`] may park it. A parked request is a value in a table, a
//! [`Passage`]: it holds no worker and no lock, so any number can be parked while the rest of the
//! mount works.
//!
//! Two windows lie in the kernel, and the gate opens them where it has the channel's intake ([`Gate::guard`]). At
//! [`Phase::Queued`] nothing is received from the moment the rule is made: what waits is parked unread, as a request of which
//! only that is known, and its release has it read and compared with the rule. At [`Phase::Copying`] a page of the server's
//! buffer is missing under userfaultfd(2), and the kernel waits in the middle of its copy.
//!
//! ```no_run
//! use inflight_fuse::abi::Opcode;
//! use inflight_gate::{Decision, Gate, Passage, Phase, Subject, Ticket};
//!
//! struct Request(Ticket);
//!
//! impl Passage for Request {
//!     fn ticket(&self) -> &Ticket {
//!         &self.0
//!     }
//!     fn resume(self: Box<Self>, decision: Decision) {
//!         self.serve(decision)
//!     }
//! }
//!
//! impl Request {
//!     fn serve(self, _decision: Decision) {
//!         self.0.answers();
//!         // The answer is sent here.
//!         self.0.done(Ok(4096));
//!     }
//! }
//!
//! # fn main() -> Result<(), inflight_gate::GateError> {
//! // At mount, in the process that serves (threads do not survive a fork into the background):
//! let gate = Gate::listen("/run/a.gate".as_ref(), Box::new(|_path| None))?;
//!
//! // For each request:
//! let subject = Subject { unique: 8, opcode: Opcode::READ, ino: 2, len: 4096, ..Subject::default() };
//! let request = Request(gate.arrive(subject));
//! if let Some((request, decision)) = Gate::pass(request, Phase::Received) {
//!     request.serve(decision);
//! }
//! # Ok(()) }
//! ```
//!
//! Lock order: there is one lock, the state of a [`Gate`]. [`Passage::resume`], `resolve` and every socket
//! call run outside it.
//!
//! * [`wire`] documents the control protocol (JSON lines on a Unix socket).
//! * [`Client`] speaks it; [`cli`] is `inflight gate SOCKET ...`, [`fault`] is `inflight fault SOCKET ...`.
//! * [`proxy`] is the gate in front of a server that knows nothing of it; `inflight-gate` runs it.
//! * A watchdog removes a rule when its time is up or its connection closes, and releases what it
//!   parked. Such a release is logged as [`ReleasedBy::Watchdog`] and voids a test's verdict.

mod armed;
mod chance;
pub mod cli;
mod client;
mod copying;
pub mod errno;
mod error;
pub mod fault;
mod kind;
mod log;
mod names;
mod notice;
pub mod pages;
pub mod perfetto;
pub mod proxy;
mod request;
mod rule;
mod server;
pub mod size;
mod state;
mod table;
mod ticket;
pub mod trace_events;
pub mod tracefs;
pub mod utc;
mod watchdog;
mod window;
pub mod wire;
mod words;

pub use client::{Client, Listing, LogPage, Wait};
pub use error::GateError;
pub use log::{Hold, Outcome, Record, Times};
pub use names::Names;
pub use notice::{Notice, Notified};
pub use request::{Decision, Phase, ReleasedBy, Subject, flip};
pub use rule::{Action, MILLION, Rule, TTL_DEFAULT_MS, TTL_MAX_MS, TTL_UNBOUNDED_MS};
pub use table::{Ask, Gate, Resolve};
pub use ticket::{Passage, Ticket};
