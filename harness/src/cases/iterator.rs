//! The kernel's kinds of I/O iterators.

use super::case::Case;

mod cached_share;
mod iterator_kinds;

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] = &[iterator_kinds::CASE, cached_share::CASE];
