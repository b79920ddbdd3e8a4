//! The structures, numbers and flags of `include/uapi/linux/fuse.h`, protocol 7.45, as they lie in memory.
//!
//! Names are those of the header without `fuse_` and `FUSE_`; fields keep theirs. All structures
//! have the byte order of the machine and no hidden padding, so they are read and written as bytes
//! by zerocopy. Values here are not checked: that is what [`crate::decode`] is for.

#[macro_use]
mod layout;
mod attributes;
mod extension;
mod flags;
mod header;
mod init;
mod input;
mod notify;
mod opcode;
mod output;
pub mod uring;

pub use attributes::{
    Attr, AttrOut, EntryOut, FileLock, Kstatfs, Statx, StatxIn, StatxOut, SxTime,
};
pub use extension::{EXT_GROUPS, ExtHeader, MAX_NR_SECCTX, Secctx, SecctxHeader, SuppGroups};
pub use flags::{
    AttrFlags, FsyncFlags, InitFlags, IoctlFlags, LockFlags, OpenFlags, PollFlags, ReadFlags,
    ReleaseFlags, SetattrValid, WriteFlags,
};
pub use flags::{
    EXPIRE_ONLY, GETATTR_FH, OPEN_KILL_SUIDGID, SETXATTR_ACL_KILL_SGID, UNIQUE_RESEND,
};
pub use header::{InHeader, OutHeader};
pub use init::{
    COMPAT_22_INIT_OUT_SIZE, COMPAT_INIT_IN_SIZE, COMPAT_INIT_OUT_SIZE, CuseInitIn, CuseInitOut,
    InitIn, InitOut, KERNEL_MINOR_VERSION, KERNEL_VERSION,
};
pub use input::{
    AccessIn, BatchForgetIn, BmapIn, COMPAT_SETXATTR_IN_SIZE, CopyFileRangeIn, CreateIn,
    FallocateIn, FlushIn, ForgetIn, ForgetOne, FsyncIn, GetattrIn, GetxattrIn, InterruptIn,
    IoctlIn, IoctlIovec, LinkIn, LkIn, LseekIn, MkdirIn, MknodIn, OpenIn, PollIn, ReadIn,
    ReleaseIn, RemovemappingIn, RemovemappingOne, Rename2In, RenameIn, SetattrIn, SetupmappingIn,
    SetxattrIn, SyncfsIn, WriteIn,
};
pub use layout::{Field, Layout};
pub use notify::{
    NotifyCode, NotifyDeleteOut, NotifyInvalEntryOut, NotifyInvalInodeOut, NotifyPollWakeupOut,
    NotifyPruneOut, NotifyRetrieveIn, NotifyRetrieveOut, NotifyStoreOut,
};
pub use opcode::{Opcode, UnknownOpcode};
pub use output::{
    BackingMap, BmapOut, CopyFileRangeOut, Dirent, Direntplus, GetxattrOut, IoctlOut, LkOut,
    LseekOut, OpenOut, PollOut, StatfsOut, WriteOut,
};

/// The node id of the root of every mount (`FUSE_ROOT_ID`).
pub const ROOT_ID: u64 = 1;
/// Smallest buffer, in bytes, that read(2) of /dev/fuse accepts (`FUSE_MIN_READ_BUFFER`).
pub const MIN_READ_BUFFER: usize = 8192;
/// User and group of a request from an idmapped mount that has no caller to speak of
/// (`FUSE_INVALID_UIDGID`).
pub const INVALID_UIDGID: u32 = u32::MAX;
/// Most input and output ranges of one ioctl (`FUSE_IOCTL_MAX_IOV`).
pub const IOCTL_MAX_IOV: usize = 256;

/// Every structure with its C name and the offsets of its fields.
pub const LAYOUTS: &[&[Layout]] = &[
    attributes::LAYOUTS,
    extension::LAYOUTS,
    header::LAYOUTS,
    init::LAYOUTS,
    input::LAYOUTS,
    notify::LAYOUTS,
    output::LAYOUTS,
    uring::LAYOUTS,
];

#[cfg(test)]
mod tests;
