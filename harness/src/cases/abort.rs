//! Connections, processes and descriptors end while I/O is in flight.

use super::case::Case;

mod abort_read;
mod close_inflight;
mod exit_inflight;

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] = &[abort_read::CASE, exit_inflight::CASE, close_inflight::CASE];
