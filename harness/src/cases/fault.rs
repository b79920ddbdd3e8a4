//! I/O whose memory is a mapping that faults.

use super::case::Case;

mod fault_gate;
mod self_mapping;

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] = &[fault_gate::CASE, self_mapping::CASE];
