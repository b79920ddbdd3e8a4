//! What the page cache holds after a direct write, and behind the end of a file.

use super::case::Case;

mod append_tail;
mod punch_store;
mod tail_junk;
mod write_cache;

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] =
    &[write_cache::CASE, append_tail::CASE, tail_junk::CASE, punch_store::CASE];
