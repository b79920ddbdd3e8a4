//! Page-aligned pinned buffers and direct I/O for Linux.

mod buddy;
mod buffer;
mod engine;
mod file;
mod mapping;
mod pool;
mod ring;

pub use buffer::Buffer;
pub use engine::{
    Completion, Done, Engine, Op, Part, QueueKind, Request, VectoredCompletion, VectoredDone,
    VectoredRequest,
};
pub use file::{Alignment, DirectError, DirectFile};
pub use mapping::{SLAB, align_up, page_size};
pub use pool::{Backing, PinKind, Pool, PoolConfig, PoolError, PoolReport, Registration};
