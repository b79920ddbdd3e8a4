//! The image layer: one file or block device that holds everything.
//!
//! `fs/FORMAT.md` draws the map. From the bottom up:
//!
//! * [`open`]: the one way in.
//! * [`snapshot`]: what can be seen of an image that somebody has mounted.
//! * [`lock`]: one owner at a time, and the owner's name for everyone else.
//! * [`server`]: the socket on which the server of a mount says what it does.
//! * [`superblock`]: what the image is, in two checksummed copies.
//! * [`metastore`]: the byte range that the metadata database lives in.
//! * `pages`: the file format of that database, for when it cannot be opened.
//! * [`tables`]: the rows of that database.
//! * [`space`]: which blocks are free, freed, or still under I/O.
//! * [`store`]: the running transaction, and the commit that makes it durable.

pub mod dump;
pub mod group_commit;
pub mod guard;
pub mod lock;
pub mod metastore;
pub mod mkfs;
pub mod open;
pub(crate) mod pages;
pub mod pins;
pub mod probe;
pub mod server;
pub mod snapshot;
pub mod space;
pub mod store;
pub mod superblock;
pub mod tables;
pub mod unopened;
pub mod view;

/// Bytes in a block, the unit of allocation.
pub const BLOCK: u64 = 4096;

/// The number of blocks that `bytes` touch when they begin at a block boundary.
pub const fn blocks_for(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK)
}
