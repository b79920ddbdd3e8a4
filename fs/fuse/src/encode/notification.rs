//! What a server tells the kernel unasked.

use crate::abi::{
    EXPIRE_ONLY, NotifyCode, NotifyDeleteOut, NotifyInvalEntryOut, NotifyInvalInodeOut,
    NotifyPollWakeupOut, NotifyPruneOut, NotifyRetrieveOut, NotifyStoreOut, OutHeader,
};
use zerocopy::IntoBytes;

/// A message to the kernel that answers nothing.
///
/// The kernel may have to wait for locks that a request in flight holds, and that request for its
/// answer: never send INVAL_INODE, INVAL_ENTRY, DELETE, STORE or PRUNE from a thread that such
/// an answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notification<'a> {
    /// A polled file is ready.
    Poll {
        /// From the POLL request.
        kh: u64,
    },
    /// Attributes of an inode are stale, and with an `offset` of 0 or more its cached data from
    /// there on.
    InvalInode {
        /// The inode.
        nodeid: u64,
        /// Bytes into the file; negative for attributes only.
        offset: i64,
        /// Bytes; 0 or less for all.
        len: i64,
    },
    /// A name is stale.
    InvalEntry {
        /// The directory.
        parent: u64,
        /// The name.
        name: &'a [u8],
        /// Let it time out only (HAS_EXPIRE_ONLY).
        expire_only: bool,
    },
    /// A name is gone, and everybody who watches is to hear of it.
    Delete {
        /// The directory.
        parent: u64,
        /// The inode that it named.
        child: u64,
        /// The name.
        name: &'a [u8],
    },
    /// Data for the page cache.
    Store {
        /// The inode.
        nodeid: u64,
        /// Bytes into the file.
        offset: u64,
        /// The data, up to 4 GiB - 1.
        data: &'a [u8],
    },
    /// Asks for what the page cache holds; a NOTIFY_REPLY request answers.
    Retrieve {
        /// Number of the answer.
        notify_unique: u64,
        /// The inode.
        nodeid: u64,
        /// Bytes into the file.
        offset: u64,
        /// Bytes at most.
        size: u32,
    },
    /// Send every request again that was read and not answered (HAS_RESEND).
    Resend,
    /// Look every name up again (7.44).
    IncEpoch,
    /// Forget these inodes if nobody uses them (7.45).
    Prune {
        /// The inodes.
        nodeids: &'a [u64],
    },
}

impl<'a> Notification<'a> {
    /// Its code.
    pub fn code(&self) -> NotifyCode {
        match self {
            Self::Poll { .. } => NotifyCode::Poll,
            Self::InvalInode { .. } => NotifyCode::InvalInode,
            Self::InvalEntry { .. } => NotifyCode::InvalEntry,
            Self::Delete { .. } => NotifyCode::Delete,
            Self::Store { .. } => NotifyCode::Store,
            Self::Retrieve { .. } => NotifyCode::Retrieve,
            Self::Resend => NotifyCode::Resend,
            Self::IncEpoch => NotifyCode::IncEpoch,
            Self::Prune { .. } => NotifyCode::Prune,
        }
    }

    /// As it is sent: a head, and data that are not copied.
    pub fn encode(&self) -> (Vec<u8>, &'a [u8]) {
        let mut head = vec![0; size_of::<OutHeader>()];
        let data = self.put(&mut head);
        let len = u32::try_from(head.len() + data.len()).unwrap_or(u32::MAX);
        let header = OutHeader { len, error: self.code() as i32, unique: 0 };
        head[..size_of::<OutHeader>()].copy_from_slice(header.as_bytes());
        (head, data)
    }

    fn put(&self, head: &mut Vec<u8>) -> &'a [u8] {
        let name_len = |name: &[u8]| name.len() as u32;
        match *self {
            Self::Resend | Self::IncEpoch => {}
            Self::Poll { kh } => head.extend(NotifyPollWakeupOut { kh }.as_bytes()),
            Self::InvalInode { nodeid, offset, len } => {
                head.extend(NotifyInvalInodeOut { ino: nodeid, off: offset, len }.as_bytes());
            }
            Self::InvalEntry { parent, name, expire_only } => {
                let flags = if expire_only { EXPIRE_ONLY } else { 0 };
                let out = NotifyInvalEntryOut { parent, namelen: name_len(name), flags };
                head.extend(out.as_bytes());
                head.extend(name);
                head.push(0);
            }
            Self::Delete { parent, child, name } => {
                let namelen = name_len(name);
                head.extend(NotifyDeleteOut { parent, child, namelen, padding: 0 }.as_bytes());
                head.extend(name);
                head.push(0);
            }
            Self::Store { nodeid, offset, data } => {
                let size = data.len() as u32;
                head.extend(NotifyStoreOut { nodeid, offset, size, padding: 0 }.as_bytes());
                return data;
            }
            Self::Retrieve { notify_unique, nodeid, offset, size } => {
                let padding = 0;
                let out = NotifyRetrieveOut { notify_unique, nodeid, offset, size, padding };
                head.extend(out.as_bytes());
            }
            Self::Prune { nodeids } => {
                let count = nodeids.len() as u32;
                head.extend(NotifyPruneOut { count, ..NotifyPruneOut::default() }.as_bytes());
                return nodeids.as_bytes();
            }
        }
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes as _;

    fn bytes(notification: &Notification<'_>) -> Vec<u8> {
        let (head, data) = notification.encode();
        [&head, data].concat()
    }

    #[test]
    fn each_says_its_code_its_length_and_nobodys_number() {
        let list = [
            (Notification::Poll { kh: 1 }, 8),
            (Notification::InvalInode { nodeid: 1, offset: -1, len: 0 }, 24),
            (Notification::InvalEntry { parent: 1, name: b"abc", expire_only: true }, 16 + 4),
            (Notification::Store { nodeid: 1, offset: 0, data: b"12345" }, 24 + 5),
            (Notification::Retrieve { notify_unique: 1, nodeid: 1, offset: 0, size: 9 }, 32),
            (Notification::Delete { parent: 1, child: 2, name: b"ab" }, 24 + 3),
            (Notification::Resend, 0),
            (Notification::IncEpoch, 0),
            (Notification::Prune { nodeids: &[1, 2] }, 16 + 16),
        ];
        for (notification, len) in list {
            let bytes = bytes(&notification);
            let (header, _) = OutHeader::read_from_prefix(&bytes).unwrap();
            assert_eq!(bytes.len(), 16 + len, "{notification:?}");
            assert_eq!(header.len as usize, bytes.len());
            assert_eq!((header.unique, header.error), (0, notification.code() as i32));
        }
    }

    #[test]
    fn names_end_with_a_zero_that_is_not_counted() {
        let bytes = bytes(&Notification::InvalEntry { parent: 7, name: b"abc", expire_only: true });
        let (out, name) = NotifyInvalEntryOut::read_from_prefix(&bytes[16..]).unwrap();
        assert_eq!((out.parent, out.namelen, out.flags), (7, 3, EXPIRE_ONLY));
        assert_eq!(name, b"abc\0");
    }
}
