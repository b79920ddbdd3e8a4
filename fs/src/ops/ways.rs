//! Which way bytes take between the image and the channel.

use crate::ops::read::ReadArgs;
use crate::ops::{Fs, WriteArgs};
use crate::options::{ReadMode, WriteMode};
use crate::volume::ReadPlan;

/// The way from the image to the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Image page cache -> buffer -> /dev/fuse.
    Copy,
    /// Image -> pinned buffer with O_DIRECT -> /dev/fuse, copied.
    CopyDirect,
    /// Image page cache -> pipe -> /dev/fuse; no copy in the server.
    SpliceBuffered,
    /// Image -> pinned buffer with O_DIRECT -> pipe -> /dev/fuse; no copy in the server.
    SpliceDirect,
    /// The broken pipe-backed iterator, for tests of the tests.
    PipeBacked,
}

impl Way {
    /// The name that logs and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Way::Copy => "copy",
            Way::CopyDirect => "copy-direct",
            Way::SpliceBuffered => "splice-buffered",
            Way::SpliceDirect => "splice-direct",
            Way::PipeBacked => "pipe-backed",
        }
    }
}

/// Replies up to this size are copied: two splices and a pipe cost more than the copy.
const COPY_MAX: usize = 32 << 10;

/// Bytes from which on a transfer of a buffered file goes past the image's page cache, which would be the
/// second one that has it. Measured on a machine whose disk reads a file of 512 MiB at 2 GB/s: 1 MiB
/// writes with fsync 1,050 to 1,370 MiB/s instead of 700 to 1,180, cold reads 1,400 to 2,500 instead of
/// 400 to 2,300. Below, the latency of the device for each request costs more than the copy.
const LARGE: usize = 128 << 10;

impl Fs {
    /// The way of a read.
    pub(super) fn choose(&self, args: &ReadArgs, plan: &ReadPlan) -> Way {
        let len = plan.len;
        let direct = match self.options.read {
            ReadMode::Copy => return Way::Copy,
            ReadMode::PipeBacked => return Way::PipeBacked,
            ReadMode::Auto => args.direct || len >= LARGE && !self.io.is_cached(&plan.pieces),
            ReadMode::Direct => true,
            ReadMode::Buffered => false,
        } && self.io.has_direct();
        let forced = self.options.read != ReadMode::Auto;
        let splices = args.splice && self.io.has_splice();
        let fits = len <= self.io.pipes().max_payload() && splices;
        match (direct, fits && len > 0 && (forced || len > COPY_MAX)) {
            (true, true) => Way::SpliceDirect,
            (true, false) => Way::CopyDirect,
            (false, true) => Way::SpliceBuffered,
            (false, false) => Way::Copy,
        }
    }

    /// Whether the payload of a write goes past the image's page cache.
    pub fn writes_directly(&self, args: &WriteArgs, len: usize) -> bool {
        match self.options.write {
            WriteMode::Direct => true,
            WriteMode::Buffered => false,
            WriteMode::Auto => args.direct || len >= LARGE,
        }
    }
}
