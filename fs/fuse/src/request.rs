//! A request in plain Rust.

mod arguments;

pub use arguments::{
    CopyFileRange, Create, CuseInit, Extensions, Fallocate, Flush, Forget, Fsync, GetXattr, Init,
    Ioctl, Lock, MakeNode, MappingRange, NotifyReply, Open, Poll, Read, Release, Rename, Security,
    SetTime, SetXattr, Setattr, SetupMapping, StatxArgs, Write,
};

use crate::abi::{Opcode, UNIQUE_RESEND};
use crate::name::Name;

/// Who asks, and about what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Number that the answer must carry. Even; an INTERRUPT has an odd one.
    pub unique: u64,
    /// The inode, by the number that an [`Entry`](crate::Entry) gave it; 0 where there is none.
    pub nodeid: u64,
    /// User of the caller, or [`INVALID_UIDGID`](crate::abi::INVALID_UIDGID).
    pub uid: u32,
    /// Group of the caller, or [`INVALID_UIDGID`](crate::abi::INVALID_UIDGID).
    pub gid: u32,
    /// Thread id of the caller in the mounter's pid namespace; 0 for the kernel itself.
    pub pid: u32,
}

impl Header {
    /// Whether the request was sent before (after a RESEND notification).
    pub fn is_resent(&self) -> bool {
        self.unique & UNIQUE_RESEND != 0
    }
}

/// A request: all of it, owned, so that it can be put aside.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks, and about what.
    pub header: Header,
    /// What is asked for.
    pub operation: Operation,
}

impl Request {
    /// The opcode.
    pub fn opcode(&self) -> Opcode {
        self.operation.opcode()
    }
}

/// What a request asks for, with its arguments. Names and data are as they came: a server has to
/// expect any byte but zero in a name, and "/" too.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "what each opcode asks for is said once, with its arguments")]
pub enum Operation {
    /// The inode of a name in the directory `nodeid`. Answer: an entry.
    Lookup { name: Name },
    /// `nlookup` entries of `nodeid` are no longer known to the kernel. Not answered.
    Forget { nlookup: u64 },
    /// Attributes. Answer: attributes.
    Getattr { fh: Option<u64> },
    /// Changes attributes. Answer: attributes.
    Setattr(Setattr),
    /// Target of a symbolic link. Answer: data.
    Readlink,
    /// Creates a symbolic link. Answer: an entry.
    Symlink { name: Name, target: Name, extensions: Extensions },
    /// Creates a node that is neither directory nor link. Answer: an entry.
    Mknod { node: MakeNode, rdev: u32 },
    /// Creates a directory. Answer: an entry.
    Mkdir(MakeNode),
    /// Removes a name that is no directory. Answer: empty.
    Unlink { name: Name },
    /// Removes an empty directory. Answer: empty.
    Rmdir { name: Name },
    /// Renames; `flags` are 0. Answer: empty.
    Rename(Rename),
    /// Another name, in the directory `nodeid`, for an inode. Answer: an entry.
    Link { target: u64, name: Name },
    /// Opens a file. Answer: a handle.
    Open(Open),
    /// Reads. Answer: data, less than asked for only at the end of the file.
    Read(Read),
    /// Writes. Answer: the number of bytes.
    Write(Write),
    /// Space and inodes. Answer: statfs.
    Statfs,
    /// The last descriptor of a handle is closed. Answer: empty.
    Release(Release),
    /// Makes a file durable. Answer: empty.
    Fsync(Fsync),
    /// Sets an extended attribute. Answer: empty.
    Setxattr(SetXattr),
    /// An extended attribute. Answer: its size when `size` is 0, else data; ERANGE if longer.
    Getxattr(GetXattr),
    /// Names of extended attributes, each with a zero byte. Answer: as to GETXATTR.
    Listxattr { size: u32 },
    /// Removes an extended attribute. Answer: empty.
    Removexattr { name: Name },
    /// A descriptor is closed. Answer: empty.
    Flush(Flush),
    /// The first request. Answer: what is agreed upon.
    Init(Init),
    /// Opens a directory. Answer: a handle.
    Opendir(Open),
    /// Entries of a directory. Answer: data made by [`Directory`](crate::Directory).
    Readdir(Read),
    /// The last descriptor of a directory's handle is closed. Answer: empty.
    Releasedir(Release),
    /// Makes a directory durable. Answer: empty.
    Fsyncdir(Fsync),
    /// Who stands against a lock. Answer: a lock.
    Getlk(Lock),
    /// Sets or clears a lock, or fails with EAGAIN. Answer: empty.
    Setlk(Lock),
    /// Sets a lock and waits for it. Answer: empty.
    Setlkw(Lock),
    /// Whether the caller may, `R_OK`, `W_OK`, `X_OK`. Answer: empty.
    Access { mask: u32 },
    /// Creates and opens. Answer: an entry and a handle.
    Create(Create),
    /// A caller got a signal: the request with this number is to end early with EINTR, if it has
    /// not been answered. Not answered, except with EAGAIN to have it sent again or ENOSYS to
    /// have none sent.
    Interrupt { unique: u64 },
    /// Where a block lies on the device (fuseblk). Answer: a block.
    Bmap { block: u64, block_size: u32 },
    /// The filesystem is unmounted. Answer: empty.
    Destroy,
    /// ioctl(2). Answer: result and data.
    Ioctl(Ioctl),
    /// poll(2). Answer: events.
    Poll(Poll),
    /// Answer of the kernel to a RETRIEVE notification. Not answered.
    NotifyReply(NotifyReply),
    /// Many FORGETs. Not answered.
    BatchForget(Vec<Forget>),
    /// Allocates, or punches a hole. Answer: empty.
    Fallocate(Fallocate),
    /// Entries with attributes; each but "." and ".." counts as a lookup. Answer: data.
    Readdirplus(Read),
    /// Renames with `RENAME_*` flags. Answer: empty.
    Rename2(Rename),
    /// SEEK_DATA and SEEK_HOLE. Answer: an offset.
    Lseek { fh: u64, offset: u64, whence: u32 },
    /// Copies between files. Answer: the number of bytes.
    CopyFileRange(CopyFileRange),
    /// Maps a range of a file into the DAX window. Answer: empty.
    Setupmapping(SetupMapping),
    /// Unmaps ranges of the DAX window. Answer: empty.
    Removemapping(Vec<MappingRange>),
    /// Makes the filesystem durable. Answer: empty.
    Syncfs,
    /// Creates and opens a file without a name. Answer: as to CREATE.
    Tmpfile(Create),
    /// statx(2). Answer: statx.
    Statx(StatxArgs),
    /// As COPY_FILE_RANGE; the answer is a number of 64 bits.
    CopyFileRange64(CopyFileRange),
    /// The first request of a character device.
    CuseInit(CuseInit),
    /// What a newer kernel may send; to be answered with ENOSYS.
    Unknown { opcode: u32 },
}

impl Operation {
    /// The opcode.
    pub fn opcode(&self) -> Opcode {
        match self {
            Self::Lookup { .. } => Opcode::LOOKUP,
            Self::Forget { .. } => Opcode::FORGET,
            Self::Getattr { .. } => Opcode::GETATTR,
            Self::Setattr(_) => Opcode::SETATTR,
            Self::Readlink => Opcode::READLINK,
            Self::Symlink { .. } => Opcode::SYMLINK,
            Self::Mknod { .. } => Opcode::MKNOD,
            Self::Mkdir(_) => Opcode::MKDIR,
            Self::Unlink { .. } => Opcode::UNLINK,
            Self::Rmdir { .. } => Opcode::RMDIR,
            Self::Rename(_) => Opcode::RENAME,
            Self::Link { .. } => Opcode::LINK,
            Self::Open(_) => Opcode::OPEN,
            Self::Read(_) => Opcode::READ,
            Self::Write(_) => Opcode::WRITE,
            Self::Statfs => Opcode::STATFS,
            Self::Release(_) => Opcode::RELEASE,
            Self::Fsync(_) => Opcode::FSYNC,
            Self::Setxattr(_) => Opcode::SETXATTR,
            Self::Getxattr(_) => Opcode::GETXATTR,
            Self::Listxattr { .. } => Opcode::LISTXATTR,
            Self::Removexattr { .. } => Opcode::REMOVEXATTR,
            Self::Flush(_) => Opcode::FLUSH,
            Self::Init(_) => Opcode::INIT,
            Self::Opendir(_) => Opcode::OPENDIR,
            Self::Readdir(_) => Opcode::READDIR,
            Self::Releasedir(_) => Opcode::RELEASEDIR,
            Self::Fsyncdir(_) => Opcode::FSYNCDIR,
            Self::Getlk(_) => Opcode::GETLK,
            Self::Setlk(_) => Opcode::SETLK,
            Self::Setlkw(_) => Opcode::SETLKW,
            Self::Access { .. } => Opcode::ACCESS,
            Self::Create(_) => Opcode::CREATE,
            Self::Interrupt { .. } => Opcode::INTERRUPT,
            Self::Bmap { .. } => Opcode::BMAP,
            Self::Destroy => Opcode::DESTROY,
            Self::Ioctl(_) => Opcode::IOCTL,
            Self::Poll(_) => Opcode::POLL,
            Self::NotifyReply(_) => Opcode::NOTIFY_REPLY,
            Self::BatchForget(_) => Opcode::BATCH_FORGET,
            Self::Fallocate(_) => Opcode::FALLOCATE,
            Self::Readdirplus(_) => Opcode::READDIRPLUS,
            Self::Rename2(_) => Opcode::RENAME2,
            Self::Lseek { .. } => Opcode::LSEEK,
            Self::CopyFileRange(_) => Opcode::COPY_FILE_RANGE,
            Self::Setupmapping(_) => Opcode::SETUPMAPPING,
            Self::Removemapping(_) => Opcode::REMOVEMAPPING,
            Self::Syncfs => Opcode::SYNCFS,
            Self::Tmpfile(_) => Opcode::TMPFILE,
            Self::Statx(_) => Opcode::STATX,
            Self::CopyFileRange64(_) => Opcode::COPY_FILE_RANGE_64,
            Self::CuseInit(_) => Opcode::CUSE_INIT,
            Self::Unknown { opcode } => Opcode(*opcode),
        }
    }
}
