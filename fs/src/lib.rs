//! The Inflight filesystem: a FUSE server over one image file.
//!
//! From the bottom, each layer knowing only those below it: [`disk`] is what holds an image,
//! [`image`] what is on it, [`data`] moves file bytes, [`volume`] is inodes, extents and names,
//! [`fsck`] checks and repairs all of it, [`ops`] is one function an operation, [`serve`] takes
//! requests through them, and [`mounted`] puts a running mount together. The gate (inflight-gate)
//! may park any request on its way.

pub mod cli;
pub mod data;
pub mod disk;
pub mod errno;
pub mod fsck;
pub mod fuser;
pub mod image;
pub mod mounted;
pub mod ops;
pub mod options;
pub mod serve;
pub mod volume;

pub use inflight_dio::sync;
pub use inflight_splice::mutant;
