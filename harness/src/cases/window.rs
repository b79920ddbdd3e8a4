//! What a server tells the kernel, and what the kernel does to memory of others, while it has requests in hand.

use super::case::Case;

mod interrupt_wait;
mod mapped_target;
mod passthrough_size;
mod resend_read;
mod retrieve_notify;
mod store_notify;

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] = &[
    resend_read::CASE,
    mapped_target::CASE,
    store_notify::CASE,
    retrieve_notify::CASE,
    interrupt_wait::CASE,
    passthrough_size::CASE,
];
