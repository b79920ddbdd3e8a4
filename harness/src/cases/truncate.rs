//! Files get shorter, longer or go while I/O on them is in flight.

use super::case::Case;

mod extend_short_read;
mod loop_shrink;
mod punch_read;
mod sendfile_self;
mod truncate_read;
mod truncate_write;
mod truncate_writeback;
mod unlink_read;

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] = &[
    truncate_read::CASE,
    truncate_write::CASE,
    extend_short_read::CASE,
    punch_read::CASE,
    truncate_writeback::CASE,
    sendfile_self::CASE,
    loop_shrink::CASE,
    unlink_read::CASE,
];
