//! Memory that is registered with io_uring.

use super::case::Case;

mod fixed_fork;
mod fixed_unmap;
mod register_matrix;

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] = &[fixed_fork::CASE, fixed_unmap::CASE, register_matrix::CASE];
