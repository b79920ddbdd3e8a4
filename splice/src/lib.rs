//! Splice-read without a pipe-backed iterator, and the reply into /dev/fuse.

pub mod direct;
mod filling;
mod pipe;
#[cfg(feature = "pipe-backed")]
pub mod pipe_backed;
mod pool;
mod reply;
mod zero;

pub use filling::{FillError, Filled, Filling};
pub use pipe::Pipe;
pub use pool::{PipePool, PipeReport, PooledPipe};
pub use reply::{ReplyChannel, SendError};
pub use zero::zero_page;
