//! Serving: a request comes in, an answer goes out.
//!
//! * `exchange`: a request on its way is a value that makes one step after the other.
//! * `step`: what it does in each.
//! * `origin`: where it came from, and where its answer goes.
//! * `dispatch`: which operation a request asks for, and what its answer looks like.
//! * `lessons`: what the gate learns of names.
//! * [`server`]: what all requests of a mount share; a handler of inflight-fuse's channels.
//! * `stale`: inodes that the kernel is to ask about again, gathered.
//! * [`workers`]: threads for what has to wait, so that those that take requests never do.

mod convert;
mod damage;
mod dispatch;
mod exchange;
mod flight;
mod lessons;
mod notice;
mod origin;
pub mod server;
mod sink;
mod stale;
mod step;
pub mod workers;

pub use notice::Kernel;
pub use server::Server;
pub use sink::{Answers, Sink};
