//! Bits. Those that are not named are kept as they came.

use bitflags::bitflags;

/// In `getattr_flags`: the file handle counts (`FUSE_GETATTR_FH`).
pub const GETATTR_FH: u32 = 1 << 0;
/// In `open_flags` of OPEN and CREATE: kill suid and sgid (`FUSE_OPEN_KILL_SUIDGID`).
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// In `setxattr_flags`: clear sgid when an access ACL is set (`FUSE_SETXATTR_ACL_KILL_SGID`).
pub const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// In INVAL_ENTRY: let the name time out instead of dropping it (`FUSE_EXPIRE_ONLY`).
pub const EXPIRE_ONLY: u32 = 1 << 0;
/// In `unique`: the request was sent before and is sent again (`FUSE_UNIQUE_RESEND`). The answer
/// carries the bit too.
pub const UNIQUE_RESEND: u64 = 1 << 63;

macro_rules! flags {
    ($(#[$meta:meta])* $name:ident: $kind:ty { $( $(#[doc = $doc:literal])* $flag:ident = $bit:literal; )* }) => {
        bitflags! {
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
            pub struct $name: $kind {
                $( $(#[doc = $doc])* const $flag = 1 << $bit; )*
                const _ = !0;
            }
        }
    };
}

flags! {
    /// What kernel and server agree upon in INIT; the upper half travels in `flags2`.
    InitFlags: u64 {
        /// Reads of one file may be in flight together.
        ASYNC_READ = 0;
        /// fcntl(2) locks are the server's.
        POSIX_LOCKS = 1;
        /// Not used by any kernel.
        FILE_OPS = 2;
        /// OPEN may carry O_TRUNC.
        ATOMIC_O_TRUNC = 3;
        /// LOOKUP of "." and ".." is answered: file handles survive a cache drop.
        EXPORT_SUPPORT = 4;
        /// Writes may be larger than a page.
        BIG_WRITES = 5;
        /// The umask is the server's to apply.
        DONT_MASK = 6;
        /// The kernel takes spliced answers.
        SPLICE_WRITE = 7;
        /// The kernel takes moved pages.
        SPLICE_MOVE = 8;
        /// The kernel lets requests be spliced out.
        SPLICE_READ = 9;
        /// flock(2) locks are the server's.
        FLOCK_LOCKS = 10;
        /// ioctl(2) on directories arrives.
        HAS_IOCTL_DIR = 11;
        /// Cached pages are dropped when mtime or size changed.
        AUTO_INVAL_DATA = 12;
        /// READDIRPLUS is answered.
        DO_READDIRPLUS = 13;
        /// READDIRPLUS is used where it seems to pay.
        READDIRPLUS_AUTO = 14;
        /// Direct I/O may be queued.
        ASYNC_DIO = 15;
        /// The kernel gathers writes.
        WRITEBACK_CACHE = 16;
        /// ENOSYS to OPEN means success from then on.
        NO_OPEN_SUPPORT = 17;
        /// Lookups and readdirs in one directory may run together.
        PARALLEL_DIROPS = 18;
        /// The server kills suid, sgid and capabilities.
        HANDLE_KILLPRIV = 19;
        /// The kernel checks POSIX ACLs that the server stores.
        POSIX_ACL = 20;
        /// Reads of an aborted connection fail with ECONNABORTED, not ENODEV.
        ABORT_ERROR = 21;
        /// `max_pages` counts.
        MAX_PAGES = 22;
        /// READLINK's answers are cached.
        CACHE_SYMLINKS = 23;
        /// ENOSYS to OPENDIR means success from then on.
        NO_OPENDIR_SUPPORT = 24;
        /// Cached pages are dropped only when asked for.
        EXPLICIT_INVAL_DATA = 25;
        /// `map_alignment` counts.
        MAP_ALIGNMENT = 26;
        /// Directories may be announced as submounts.
        SUBMOUNTS = 27;
        /// As HANDLE_KILLPRIV, with the caller's CAP_FSETID looked at by the kernel.
        HANDLE_KILLPRIV_V2 = 28;
        /// SETXATTR has the longer structure.
        SETXATTR_EXT = 29;
        /// `flags2` counts.
        INIT_EXT = 30;
        /// Reserved.
        INIT_RESERVED = 31;
        /// Requests that create carry security contexts.
        SECURITY_CTX = 32;
        /// DAX by inode.
        HAS_INODE_DAX = 33;
        /// Requests that create carry a supplementary group.
        CREATE_SUPP_GROUP = 34;
        /// INVAL_ENTRY understands [`EXPIRE_ONLY`].
        HAS_EXPIRE_ONLY = 35;
        /// Shared mmap of files opened with FOPEN_DIRECT_IO.
        DIRECT_IO_ALLOW_MMAP = 36;
        /// Files may be passed through to a backing file.
        PASSTHROUGH = 37;
        /// File handles are refused.
        NO_EXPORT_SUPPORT = 38;
        /// RESEND is understood.
        HAS_RESEND = 39;
        /// Idmapped mounts are allowed.
        ALLOW_IDMAP = 40;
        /// Requests may go by io_uring.
        OVER_IO_URING = 41;
        /// `request_timeout` counts.
        REQUEST_TIMEOUT = 42;
    }
}

flags! {
    /// Which fields of SETATTR count, `FATTR_*`.
    SetattrValid: u32 {
        /// Mode.
        MODE = 0;
        /// Owner.
        UID = 1;
        /// Group.
        GID = 2;
        /// Size.
        SIZE = 3;
        /// Time of the last access.
        ATIME = 4;
        /// Time of the last change of the data.
        MTIME = 5;
        /// File handle.
        FH = 6;
        /// The time of access is now.
        ATIME_NOW = 7;
        /// The time of the change is now.
        MTIME_NOW = 8;
        /// Owner of locks.
        LOCKOWNER = 9;
        /// Time of the last change of the inode.
        CTIME = 10;
        /// Suid and sgid are to be killed.
        KILL_SUIDGID = 11;
    }
}

flags! {
    /// Answer to OPEN, `FOPEN_*`.
    OpenFlags: u32 {
        /// Reads and writes pass the page cache by.
        DIRECT_IO = 0;
        /// Cached pages stay valid.
        KEEP_CACHE = 1;
        /// No seeking.
        NONSEEKABLE = 2;
        /// Entries of this directory may be cached.
        CACHE_DIR = 3;
        /// No file position at all.
        STREAM = 4;
        /// No FLUSH on close(2).
        NOFLUSH = 5;
        /// Direct writes to one file may run together.
        PARALLEL_DIRECT_WRITES = 6;
        /// Reads and writes go to the backing file.
        PASSTHROUGH = 7;
    }
}

flags! {
    /// Of RELEASE, `FUSE_RELEASE_*`.
    ReleaseFlags: u32 {
        /// A flush is to be done too.
        FLUSH = 0;
        /// A flock(2) lock is to be given up.
        FLOCK_UNLOCK = 1;
    }
}

flags! {
    /// Of READ, `FUSE_READ_*`.
    ReadFlags: u32 {
        /// The owner of locks counts.
        LOCKOWNER = 1;
    }
}

flags! {
    /// Of WRITE, `FUSE_WRITE_*`.
    WriteFlags: u32 {
        /// Out of the page cache; the file handle is a guess.
        CACHE = 0;
        /// The owner of locks counts.
        LOCKOWNER = 1;
        /// Suid and sgid are to be killed.
        KILL_SUIDGID = 2;
    }
}

flags! {
    /// Of IOCTL and its answer, `FUSE_IOCTL_*`.
    IoctlFlags: u32 {
        /// A 32-bit caller.
        COMPAT = 0;
        /// Not limited to well-formed commands (CUSE).
        UNRESTRICTED = 1;
        /// In an answer: ask again with these ranges.
        RETRY = 2;
        /// A 32-bit ioctl.
        IOCTL_32BIT = 3;
        /// On a directory.
        DIR = 4;
        /// An x32 caller, whose time_t has 64 bits.
        COMPAT_X32 = 5;
    }
}

flags! {
    /// Of FSYNC, `FUSE_FSYNC_*`.
    FsyncFlags: u32 {
        /// Data, and only the metadata that it needs.
        FDATASYNC = 0;
    }
}

flags! {
    /// Of POLL, `FUSE_POLL_*`.
    PollFlags: u32 {
        /// The caller waits for a notification.
        SCHEDULE_NOTIFY = 0;
    }
}

flags! {
    /// Of GETLK, SETLK and SETLKW, `FUSE_LK_*`.
    LockFlags: u32 {
        /// From flock(2).
        FLOCK = 0;
    }
}

flags! {
    /// Of attributes, `FUSE_ATTR_*`.
    AttrFlags: u32 {
        /// The root of a submount.
        SUBMOUNT = 0;
        /// DAX for this file.
        DAX = 1;
    }
}
