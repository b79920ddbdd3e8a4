//! The arguments of operations.

use crate::abi::{
    FsyncFlags, InitFlags, IoctlFlags, LockFlags, PollFlags, ReleaseFlags, WriteFlags,
};
use crate::attr::FileLock;
use crate::name::Name;
use crate::payload::Payload;
use crate::time::Time;

/// What INIT offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    /// Major version of the kernel's protocol.
    pub major: u32,
    /// Minor version of the kernel's protocol.
    pub minor: u32,
    /// Readahead of the mount in bytes, as far as the server lets it.
    pub max_readahead: u32,
    /// What the kernel can do.
    pub flags: InitFlags,
}

/// What CUSE_INIT offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CuseInit {
    /// Major version of the kernel's protocol.
    pub major: u32,
    /// Minor version of the kernel's protocol.
    pub minor: u32,
    /// Bit 0: unrestricted ioctls are possible.
    pub flags: u32,
}

/// One FORGET of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forget {
    /// The inode.
    pub nodeid: u64,
    /// How many entries the kernel forgets.
    pub nlookup: u64,
}

/// A time that SETATTR sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The server's clock.
    Now,
    /// This one.
    At(Time),
}

/// Arguments of SETATTR; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setattr {
    /// Through this handle (ftruncate(2)).
    pub fh: Option<u64>,
    /// New size in bytes.
    pub size: Option<u64>,
    /// Owner of mandatory locks.
    pub lock_owner: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the data.
    pub mtime: Option<SetTime>,
    /// Last change of the inode; only with WRITEBACK_CACHE.
    pub ctime: Option<Time>,
    /// Type and permissions.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Suid and sgid are to be killed (HANDLE_KILLPRIV_V2).
    pub kill_suidgid: bool,
}

/// A security context for a new inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Security {
    /// Extended attribute, as "security.selinux".
    pub name: Name,
    /// Its value.
    pub value: Vec<u8>,
}

/// What follows the arguments of a request that creates something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// With SECURITY_CTX: contexts of the new inode.
    pub security: Vec<Security>,
    /// With CREATE_SUPP_GROUP: groups of the caller beside `gid`; Linux sends at most one, that of
    /// the directory.
    pub groups: Vec<u32>,
}

impl Extensions {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.security.is_empty() && self.groups.is_empty()
    }
}

/// Arguments of MKNOD and MKDIR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeNode {
    /// Name in the directory `nodeid`.
    pub name: Name,
    /// Type and permissions. The umask was applied unless DONT_MASK was agreed upon.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// Security contexts and groups.
    pub extensions: Extensions,
}

/// Arguments of CREATE and TMPFILE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Name in the directory `nodeid`; for TMPFILE "/", which the kernel made up.
    pub name: Name,
    /// Flags of open(2).
    pub flags: u32,
    /// Type and permissions.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// Suid and sgid are to be killed.
    pub kill_suidgid: bool,
    /// Security contexts and groups.
    pub extensions: Extensions,
}

/// Arguments of RENAME and RENAME2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// Name in the directory `nodeid`.
    pub name: Name,
    /// The directory that it goes to.
    pub new_parent: u64,
    /// Its name there.
    pub new_name: Name,
    /// `RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT`; 0 for RENAME.
    pub flags: u32,
}

/// Arguments of OPEN and OPENDIR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Flags of open(2), without O_CREAT, O_EXCL and O_NOCTTY; O_TRUNC with ATOMIC_O_TRUNC.
    pub flags: u32,
    /// Suid and sgid are to be killed (O_TRUNC with HANDLE_KILLPRIV_V2).
    pub kill_suidgid: bool,
}

/// Arguments of READ, READDIR and READDIRPLUS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The handle.
    pub fh: u64,
    /// Bytes into the file; in a directory what an entry's `next` said, or 0.
    pub offset: u64,
    /// Bytes wanted at most.
    pub size: u32,
    /// Owner of mandatory locks.
    pub lock_owner: Option<u64>,
    /// Flags of open(2).
    pub flags: u32,
}

/// Arguments of WRITE.
#[derive(Debug, PartialEq, Eq)]
pub struct Write {
    /// The handle; with [`WriteFlags::CACHE`] that of any writer.
    pub fh: u64,
    /// Bytes into the file.
    pub offset: u64,
    /// The data.
    pub data: Payload,
    /// Out of the page cache, kill suid and sgid.
    pub write_flags: WriteFlags,
    /// Owner of mandatory locks.
    pub lock_owner: Option<u64>,
    /// Flags of open(2).
    pub flags: u32,
}

/// Arguments of RELEASE and RELEASEDIR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// The handle.
    pub fh: u64,
    /// Flags of open(2).
    pub flags: u32,
    /// Flush, unlock.
    pub release_flags: ReleaseFlags,
    /// Owner of locks.
    pub lock_owner: u64,
}

/// Arguments of FLUSH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// The handle.
    pub fh: u64,
    /// Owner of locks, whose POSIX locks end.
    pub lock_owner: u64,
}

/// Arguments of FSYNC and FSYNCDIR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fsync {
    /// The handle.
    pub fh: u64,
    /// Data only.
    pub fsync_flags: FsyncFlags,
}

/// Arguments of SETXATTR.
#[derive(Debug, PartialEq, Eq)]
pub struct SetXattr {
    /// Name with its namespace, as "user.colour".
    pub name: Name,
    /// Value.
    pub value: Payload,
    /// `XATTR_CREATE`, `XATTR_REPLACE`.
    pub flags: u32,
    /// Clear sgid: an access ACL is set by one who is not in the group.
    pub acl_kill_sgid: bool,
}

/// Arguments of GETXATTR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetXattr {
    /// Name with its namespace.
    pub name: Name,
    /// Room for the value in bytes; 0 to ask for its size.
    pub size: u32,
}

/// Arguments of GETLK, SETLK and SETLKW.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// The handle.
    pub fh: u64,
    /// Owner of the lock.
    pub owner: u64,
    /// The lock.
    pub lock: FileLock,
    /// From flock(2).
    pub lock_flags: LockFlags,
}

/// Arguments of IOCTL.
#[derive(Debug, PartialEq, Eq)]
pub struct Ioctl {
    /// The handle; 0 where the caller's descriptor has none.
    pub fh: u64,
    /// 32-bit caller, directory.
    pub ioctl_flags: IoctlFlags,
    /// The command.
    pub command: u32,
    /// Its argument: an address of the caller's, or a number.
    pub arg: u64,
    /// What the caller hands in, as long as the command says.
    pub data: Payload,
    /// Bytes that the caller takes at most.
    pub out_size: u32,
}

/// Arguments of POLL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Poll {
    /// The handle.
    pub fh: u64,
    /// What the notification must carry.
    pub kh: u64,
    /// Whether a notification is waited for.
    pub poll_flags: PollFlags,
    /// `POLLIN` and so on.
    pub events: u32,
}

/// Arguments of NOTIFY_REPLY. Its `unique` is that of the RETRIEVE.
#[derive(Debug, PartialEq, Eq)]
pub struct NotifyReply {
    /// Bytes into the file.
    pub offset: u64,
    /// What the page cache held.
    pub data: Payload,
}

/// Arguments of FALLOCATE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fallocate {
    /// The handle.
    pub fh: u64,
    /// Bytes into the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// `FALLOC_FL_*`.
    pub mode: u32,
}

/// Arguments of COPY_FILE_RANGE and COPY_FILE_RANGE_64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyFileRange {
    /// Handle to copy from; its inode is `nodeid`.
    pub fh_in: u64,
    /// Bytes into that file.
    pub offset_in: u64,
    /// Inode to copy to.
    pub nodeid_out: u64,
    /// Handle to copy to.
    pub fh_out: u64,
    /// Bytes into that file.
    pub offset_out: u64,
    /// Bytes to copy.
    pub len: u64,
    /// None is defined.
    pub flags: u64,
}

/// Arguments of SETUPMAPPING.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetupMapping {
    /// The handle.
    pub fh: u64,
    /// Bytes into the file.
    pub file_offset: u64,
    /// Bytes.
    pub len: u64,
    /// Bit 0 to write, bit 1 to read.
    pub flags: u64,
    /// Bytes into the window.
    pub window_offset: u64,
}

/// A range of the DAX window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappingRange {
    /// Bytes into the window.
    pub window_offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Arguments of STATX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatxArgs {
    /// The handle, if the caller has one.
    pub fh: Option<u64>,
    /// `AT_STATX_*`.
    pub flags: u32,
    /// `STATX_*`.
    pub mask: u32,
}
