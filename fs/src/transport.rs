//! The transports: how requests come from the kernel and replies go back.
//!
//! * [`service`] takes a request through the gate and the operations; every transport uses it.
//! * [`fuser`] is the adapter to the fuser crate.
//! * [`mount`] decides what to mount with, [`server`] runs a mount from start to end.

pub mod fuser;
pub mod mount;
pub mod server;
pub mod service;
