//! What a write takes from memory, and when.

use super::case::Case;

mod overlap_write;
mod writeback_edit;
mod zero_page_write;

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] = &[overlap_write::CASE, writeback_edit::CASE, zero_page_write::CASE];
