//! What the kernel is told unasked, on command.

use std::sync::Arc;
use std::time::Duration;

use inflight_fuse::Notification;
use inflight_fuse::channel::{Channel, SendError};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::{Gate, GateError};

/// A notification that a client has the server's side send (`fuse_notify_code` of linux/fuse.h).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// Everything that was read and not answered is to be sent again (6.9). What is sent again has the highest bit of its
    /// `unique` set, and an answer under the old number comes to nobody.
    Resend,
    /// Attributes of an inode are stale, and its cached data in this range.
    Inval {
        /// Node id.
        ino: u64,
        /// First byte; negative for attributes only.
        offset: i64,
        /// Bytes; 0 for all behind `offset`.
        len: i64,
    },
    /// Data for the page cache.
    Store {
        /// Node id.
        ino: u64,
        /// First byte.
        offset: u64,
        /// The data; a line of the protocol holds about 16 KiB of them.
        data: Vec<u8>,
    },
    /// What the page cache holds is to be sent; a NOTIFY_REPLY request brings it, which the server gets.
    Retrieve {
        /// Node id.
        ino: u64,
        /// First byte.
        offset: u64,
        /// Bytes.
        size: u32,
    },
}

/// What came of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notified {
    /// The kernel took it, or refused it. If not, it waits for something that a request in flight holds, and goes on by
    /// itself.
    pub is_over: bool,
    /// With what it was refused: ENOENT for an inode that the kernel does not have.
    pub errno: Option<i32>,
}

impl Notice {
    fn send(&self, channel: &Channel) -> Result<(), SendError> {
        channel.notify(&match self {
            Notice::Resend => Notification::Resend,
            &Notice::Inval { ino, offset, len } => {
                Notification::InvalInode { nodeid: ino, offset, len }
            }
            Notice::Store { ino, offset, data } => {
                Notification::Store { nodeid: *ino, offset: *offset, data }
            }
            &Notice::Retrieve { ino, offset, size } => {
                Notification::Retrieve { notify_unique: 1, nodeid: ino, offset, size }
            }
        })
    }
}

impl Gate {
    /// Names the way to the kernel, for notifications. The gate holds it until it is shut down.
    pub fn speak_by(&self, channel: &Channel) {
        *self.channel.lock() = Some(channel.clone());
    }

    /// Sends a notification from a thread of its own, and waits for its end up to `bound`.
    pub(super) fn notify(&self, notice: Notice, bound: Duration) -> Result<Notified, GateError> {
        let channel = self.channel.lock().clone();
        let missing =
            || GateError::Refused("this server's gate has no way to the kernel".to_owned());
        let channel = channel.ok_or_else(missing)?;
        let slot = Arc::new((Mutex::new(None), Condvar::new()));
        let theirs = Arc::clone(&slot);
        let send = move || {
            let sent = match notice.send(&channel) {
                Ok(()) => None,
                Err(SendError::Gone) => Some(libc::ENOENT),
                Err(SendError::Disconnected) => Some(libc::ENODEV),
                Err(SendError::Io(error)) => Some(error.raw_os_error().unwrap_or(libc::EIO)),
                Err(_) => Some(libc::EIO),
            };
            *theirs.0.lock() = Some(sent);
            theirs.1.notify_all();
        };
        let spawned = std::thread::Builder::new().name("gate-notify".to_owned()).spawn(send);
        spawned.map_err(|error| GateError::io("start a thread for a notification", error))?;
        let mut sent = slot.0.lock();
        slot.1.wait_while_for(&mut sent, |sent| sent.is_none(), bound);
        Ok(Notified { is_over: sent.is_some(), errno: sent.flatten() })
    }
}
