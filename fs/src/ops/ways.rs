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

/// Answers up to this size are copied out of the image's page cache: splices into two pipes and /dev/fuse cost more.
///
/// Processor time of a READ on a real mount, client included, copied and spliced (`copy_or_splice` of inflight-fuse; Linux 6.18
/// on two virtual cores at a load of 25 to 45, medians of three runs in turns): 32 KiB 13.0 and 14.1 us, 48 KiB 15.0 and 15.4, 64
/// KiB 16.8 and 16.5, 96 KiB 20.5 and 19.0, 128 KiB 25.4 and 20.8, 512 KiB 66 and 48.
const COPY_MAX: usize = 64 << 10;
/// The same for what lies in a buffer of ours, whose pages vmsplice(2) has to look up first: 64 KiB 14.0 and 15.6 us, 128 KiB 19.1
/// and 18.8, 192 KiB 24.1 and 23.4, 256 KiB 29.1 and 27.3, 512 KiB 52 and 45.
const COPY_DIRECT_MAX: usize = 128 << 10;

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
        let copied = if direct { COPY_DIRECT_MAX } else { COPY_MAX };
        match (direct, fits && len > 0 && (forced || len > copied)) {
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
