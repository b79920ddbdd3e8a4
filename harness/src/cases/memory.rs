//! Pages that the kernel wants back or elsewhere while I/O is in flight.

use super::case::Case;

mod migrate;
mod pageout;
mod pin_return;
mod secret_memory;

/// Its cases, in the order in which they are run.
pub const CASES: &[Case] = &[pin_return::CASE, migrate::CASE, pageout::CASE, secret_memory::CASE];
