//! The crate fuser as a transport, for reference: its calls become the requests that our own
//! channels decode, as far as it passes them on, and answers go back through its reply objects.
//!
//! What it drops (O_TMPFILE, btime by statx, SYNCFS, security contexts, who may keep suid) is done
//! without; data are copied.

mod adapter;
mod convert;
mod negotiate;
mod reply;

pub use adapter::Adapter;
pub use reply::Notices;
