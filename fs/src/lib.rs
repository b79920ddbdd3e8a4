//! The Inflight filesystem.

pub mod gate;
