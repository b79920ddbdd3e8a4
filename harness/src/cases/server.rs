//! What only a server can get wrong.

use super::case::Case;

mod blocks_reuse;
mod change_done;
mod reply_beside;
mod reply_reuse;
mod server_pins;
mod truncate_tail;

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] = &[
    reply_reuse::CASE,
    reply_beside::CASE,
    blocks_reuse::CASE,
    truncate_tail::CASE,
    change_done::CASE,
    server_pins::CASE,
];
