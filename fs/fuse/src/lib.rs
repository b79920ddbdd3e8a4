//! The Linux FUSE protocol, and nothing else.

pub mod abi;
mod attr;
pub mod channel;
pub mod decode;
mod encode;
pub mod mount;
mod name;
mod negotiate;
mod payload;
mod request;
mod time;

pub use attr::{Attr, Entry, FOREVER, FileLock, Statfs, Statx};
pub use decode::{DecodeError, Dialect, Malformed};
pub use encode::{Data, DirEntry, Directory, EncodeError, Frame, Notification, Opened, Reply};
pub use name::Name;
pub use negotiate::{MINOR_MIN, NegotiateError, Negotiated, Wanted, negotiate, version_only};
pub use payload::Payload;
pub use request::{
    CopyFileRange, Create, CuseInit, Extensions, Fallocate, Flush, Forget, Fsync, GetXattr, Header,
    Init, Ioctl, Lock, MakeNode, MappingRange, NotifyReply, Open, Operation, Poll, Read, Release,
    Rename, Request, Security, SetTime, SetXattr, Setattr, SetupMapping, StatxArgs, Write,
};
pub use time::Time;

/// Where the kernel does not do what its header says.
pub mod quirks {}
