//! The Inflight filesystem: a FUSE server over one image file.
//!
//! Four layers, each knowing only the one below it: [`transport`] speaks FUSE, [`ops`] is one
//! function an operation, [`volume`] is inodes, extents and names, [`image`] is the file that
//! holds it all. The gate (inflight-gate) stands between transport and ops and may park any request.

pub mod cli;
pub mod data;
pub mod disk;
pub mod errno;
pub mod image;
pub mod volume;

pub use inflight_splice::mutant;

pub mod ops;
pub mod options;
pub mod transport;
