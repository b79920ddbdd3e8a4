//! What the kernel is told unasked.

use crate::errno::Errno;
use inflight_fuse::Notification;
use inflight_fuse::channel::{Channel, SendError};
use std::ops::Range;

/// Who takes notifications to the kernel.
pub trait Kernel: Send + Sync {
    /// Sends one. It may wait for requests in flight.
    fn notify(&self, notification: &Notification<'_>);
}

impl Kernel for Channel {
    fn notify(&self, notification: &Notification<'_>) {
        match Channel::notify(self, notification) {
            // The kernel has forgotten the inode, so it has nothing stale; or it is gone.
            Ok(()) | Err(SendError::Gone | SendError::Disconnected) => {}
            Err(e) => tracing::warn!("the kernel does not take {:?}: {e}", notification.code()),
        }
    }
}

/// A notification that goes with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The attributes of this inode are to be asked for again.
    AskAgain(u64),
    /// The number of its blocks is to be asked for again, soon: see [`Stale`](super::stale::Stale).
    Blocks(u64),
    /// Its dirty pages in this range are to be written back; the kernel forgets them too, for it
    /// has no notification that only writes.
    WriteBack(u64, Range<u64>),
}

impl Notice {
    pub(super) fn send(&self, kernel: &dyn Kernel) {
        let (nodeid, offset, len) = match self {
            // A negative offset spares the pages.
            Notice::AskAgain(ino) | Notice::Blocks(ino) => (*ino, -1, 0),
            Notice::WriteBack(ino, range) => {
                // A length of 0 means everything from the offset on.
                let offset = range.start.min(i64::MAX as u64) as i64;
                (*ino, offset, i64::try_from(range.end - range.start).unwrap_or(0))
            }
        };
        kernel.notify(&Notification::InvalInode { nodeid, offset, len });
    }
}

/// An answer's outcome as the gate's log has it.
pub(super) type Outcome = Result<u64, i32>;

pub(super) fn failed(errno: Errno) -> Outcome {
    Err(errno as i32)
}
