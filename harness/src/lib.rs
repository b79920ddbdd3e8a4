//! The race harness: truncate, fork and their relatives against I/O that is in flight, on real mounts.

pub mod engine;
pub mod expect;
pub mod fork;
pub mod kernel;
pub mod memory;
pub mod pagemap;
pub mod pins;
pub mod stamp;
pub mod verdict;
