//! The harness itself: cases that must fail, hang and skip.

use super::case::Case;

mod meta_control;
mod meta_fact;
mod meta_fail;
mod meta_hang;
mod meta_pages;
mod meta_skip;
mod meta_watchdog;
mod meta_window;

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] = &[
    meta_fail::CASE,
    meta_hang::CASE,
    meta_skip::CASE,
    meta_control::CASE,
    meta_watchdog::CASE,
    meta_pages::CASE,
    meta_window::CASE,
    meta_fact::CASE,
];
