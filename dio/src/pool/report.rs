//! What a pool says about itself.

use serde::Serialize;

/// The pages under a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Backing {
    /// Transparent huge pages throughout.
    Huge,
    /// Base pages, at least in part.
    Base,
}

/// What keeps the pages of a pool in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PinKind {
    /// `FOLL_PIN | FOLL_LONGTERM` by io_uring registration: neither swapped nor migrated, and
    /// never shared copy-on-write with a child.
    IoUring,
    /// mlock(2): not swapped, but the kernel may migrate the pages.
    Mlock,
    /// Nothing between two I/Os.
    None,
}

/// The state of a [`Pool`](crate::Pool).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolReport {
    /// Slabs of 2 MiB.
    pub slabs: usize,
    /// Bytes in all slabs.
    pub bytes: usize,
    /// Bytes of them that are pinned as `pin` says.
    pub pinned_bytes: usize,
    /// Huge or base pages.
    pub backing: Backing,
    /// How they are pinned.
    pub pin: PinKind,
    /// Bytes of slab memory in buffers now, rounded up to pieces.
    pub in_use: usize,
    /// Buffers that did not come from a slab since the pool was made.
    pub fallbacks: u64,
    /// Why the pool is less than what was asked for, a sentence each. Empty when it is not.
    pub reasons: Vec<String>,
}
