//! How this command waits for an image that somebody else uses.

use crate::image::lock::{self, Waiting};
use std::io::IsTerminal as _;
use std::time::Duration;

/// Where nobody watches, a wait is told when it is long: scripts compare what a mount prints, which is nothing.
const UNWATCHED: Duration = Duration::from_secs(10);

/// Sets it, once for the process.
pub fn set(patient: bool) {
    let after = if std::io::stderr().is_terminal() { Duration::ZERO } else { UNWATCHED };
    lock::wait_as(Waiting { patient, after, tell: |line| eprintln!("inflight: {line}") });
}
