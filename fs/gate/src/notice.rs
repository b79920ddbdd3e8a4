//! What the kernel is told unasked, on command.

use std::collections::BTreeMap;
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
#[non_exhaustive]
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
    /// A name is stale: it is looked up again, or with `expire` timed out only.
    InvalEntry {
        /// Node id of the directory.
        parent: u64,
        /// The name in it.
        name: String,
        /// Whether whoever has it open or below it keeps it (FUSE_EXPIRE_ONLY, 6.2).
        expire: bool,
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
    /// What the page cache holds is to be sent; a NOTIFY_REPLY request brings it, which the gate keeps for
    /// [`Client::retrieved`](super::Client::retrieved). It ends where the page cache has a gap, and at the end of the file.
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

/// Marks the numbers of the gate's own RETRIEVEs, whose NOTIFY_REPLY is the gate's. (The highest bit is of what was sent again.)
const RETRIEVES: u64 = 1 << 62;

/// Replies to RETRIEVE that are kept until they are asked for; of more the oldest goes.
const REPLIES_MAX: usize = 16;

/// What RETRIEVEs brought, by their number.
#[derive(Debug, Default)]
pub(super) struct Retrieved {
    last: u64,
    replies: BTreeMap<u64, Vec<u8>>,
}

impl Retrieved {
    /// A number for a new one.
    fn next(&mut self) -> u64 {
        self.last += 1;
        RETRIEVES | self.last
    }

    /// What one brought. It is told once.
    pub(super) fn take(&mut self, number: u64) -> Option<Vec<u8>> {
        self.replies.remove(&number)
    }

    pub(super) fn is_there(&self, number: u64) -> bool {
        self.replies.contains_key(&number)
    }

    fn keep(&mut self, number: u64, data: &[u8]) {
        self.replies.insert(number, data.to_vec());
        while self.replies.len() > REPLIES_MAX {
            self.replies.pop_first();
        }
    }
}

impl Notice {
    fn send(&self, channel: &Channel, number: u64) -> Result<(), SendError> {
        channel.notify(&match self {
            Notice::Resend => Notification::Resend,
            &Notice::Inval { ino, offset, len } => {
                Notification::InvalInode { nodeid: ino, offset, len }
            }
            Notice::InvalEntry { parent, name, expire } => Notification::InvalEntry {
                parent: *parent,
                name: name.as_bytes(),
                expire_only: *expire,
            },
            Notice::Store { ino, offset, data } => {
                Notification::Store { nodeid: *ino, offset: *offset, data }
            }
            &Notice::Retrieve { ino, offset, size } => {
                Notification::Retrieve { notify_unique: number, nodeid: ino, offset, size }
            }
        })
    }
}

impl Gate {
    /// Names the way to the kernel, for notifications. The gate holds it until it is shut down.
    pub fn speak_by(&self, channel: &Channel) {
        *self.channel.lock() = Some(channel.clone());
    }

    /// Sends a notification from a thread of its own, and waits for its end up to `bound`. What a RETRIEVE brings has the
    /// number that is told.
    pub(super) fn notify(
        &self,
        notice: Notice,
        bound: Duration,
    ) -> Result<(Notified, Option<u64>), GateError> {
        let is_retrieve = matches!(notice, Notice::Retrieve { .. });
        let number = is_retrieve.then(|| self.state.lock().retrieved.next());
        let channel = self.channel.lock().clone();
        let missing =
            || GateError::Refused("this server's gate has no way to the kernel".to_owned());
        let channel = channel.ok_or_else(missing)?;
        let slot = Arc::new((Mutex::new(None), Condvar::new()));
        let theirs = Arc::clone(&slot);
        let send = move || {
            let sent = match notice.send(&channel, number.unwrap_or(0)) {
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
        Ok((Notified { is_over: sent.is_some(), errno: sent.flatten() }, number))
    }

    /// A NOTIFY_REPLY was received. `false` when it is not for the gate, but for the server.
    pub fn retrieved(&self, unique: u64, data: &[u8]) -> bool {
        if unique & RETRIEVES == 0 {
            return false;
        }
        self.state.lock().retrieved.keep(unique, data);
        self.changed.notify_all();
        true
    }
}
