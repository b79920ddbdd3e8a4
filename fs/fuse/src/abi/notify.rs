//! Messages that a server sends unasked. Their header has `unique` 0 and the code as `error`.

structures! {
    /// POLL.
    NotifyPollWakeupOut = "fuse_notify_poll_wakeup_out" {
        kh: u64,
    }
    /// INVAL_INODE; a negative `off` drops attributes only, a `len` of zero or less goes to the end.
    NotifyInvalInodeOut = "fuse_notify_inval_inode_out" {
        ino: u64,
        off: i64,
        len: i64,
    }
    /// INVAL_ENTRY; the name and a zero byte follow, `namelen` does not count the zero.
    NotifyInvalEntryOut = "fuse_notify_inval_entry_out" {
        parent: u64,
        namelen: u32,
        flags: u32,
    }
    /// DELETE; the name and a zero byte follow.
    NotifyDeleteOut = "fuse_notify_delete_out" {
        parent: u64,
        child: u64,
        namelen: u32,
        padding: u32,
    }
    /// STORE; `size` bytes follow.
    NotifyStoreOut = "fuse_notify_store_out" {
        nodeid: u64,
        offset: u64,
        size: u32,
        padding: u32,
    }
    /// RETRIEVE; NOTIFY_REPLY answers with `notify_unique` as its unique.
    NotifyRetrieveOut = "fuse_notify_retrieve_out" {
        notify_unique: u64,
        nodeid: u64,
        offset: u64,
        size: u32,
        padding: u32,
    }
    /// NOTIFY_REPLY, a request; `size` bytes follow. As long as `fuse_write_in`.
    NotifyRetrieveIn = "fuse_notify_retrieve_in" {
        dummy1: u64,
        offset: u64,
        size: u32,
        dummy2: u32,
        dummy3: u64,
        dummy4: u64,
    }
    /// PRUNE; `count` node ids of eight bytes follow.
    NotifyPruneOut = "fuse_notify_prune_out" {
        count: u32,
        padding: u32,
        spare: u64,
    }
}

/// `enum fuse_notify_code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum NotifyCode {
    /// A polled file is ready.
    Poll = 1,
    /// Data and attributes of an inode are stale.
    InvalInode = 2,
    /// A name is stale.
    InvalEntry = 3,
    /// Data for the page cache.
    Store = 4,
    /// The page cache is asked for data.
    Retrieve = 5,
    /// A name is gone.
    Delete = 6,
    /// Every request that was read and not answered is sent again (7.40).
    Resend = 7,
    /// All dentries are to be looked up again (7.44).
    IncEpoch = 8,
    /// Inodes that nobody uses are to be forgotten (7.45).
    Prune = 9,
}

impl NotifyCode {
    /// Every code.
    pub const ALL: [NotifyCode; 9] = [
        Self::Poll,
        Self::InvalInode,
        Self::InvalEntry,
        Self::Store,
        Self::Retrieve,
        Self::Delete,
        Self::Resend,
        Self::IncEpoch,
        Self::Prune,
    ];

    /// The code with this number.
    pub fn from_number(number: i32) -> Option<NotifyCode> {
        Self::ALL.into_iter().find(|code| *code as i32 == number)
    }
}
