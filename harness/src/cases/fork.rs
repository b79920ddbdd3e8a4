//! A process forks beside direct I/O.

use super::case::Case;

mod fork_controls;
mod fork_network;
mod fork_read_read;
mod fork_tearing;
mod fork_touch;
mod protect_touch;

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] = &[
    fork_touch::CASE,
    fork_read_read::CASE,
    protect_touch::CASE,
    fork_controls::CASE,
    fork_network::CASE,
    fork_tearing::CASE,
];
