//! The Linux FUSE protocol up to 7.45, for whoever writes a server, a proxy or a test of one.
//!
//! The crate carries requests and answers and knows what each of them means on the wire. It has
//! no filesystem, no cache, no threads of its own but those of [`channel::uring`], and no opinion
//! on what to answer.
//!
//! # A filesystem of one file
//!
//! `examples/hello.rs`:
//!
//! ```no_run
#![doc = include_str!("../examples/hello.rs")]
//! ```
//!
//! # A tour
//!
//! * [`mount::mount`] gives a device. It tries fsopen(2), then mount(2), and has fusermount3(1) do
//!   it for an ordinary user. [`mount::Connection`] aborts a connection and counts its requests.
//! * [`channel::Channel`] makes messages of the device, of a socket to another server
//!   ([`channel::pair`]) or of memory ([`channel::memory`]); [`channel::Channel::handshake`]
//!   answers INIT with what [`negotiate`] found that both sides can.
//! * A [`channel::Receiver`] gives a [`Request`] and a [`channel::Ticket`]. Both are owned and
//!   have no lifetimes: put them into a table, send them to another thread, answer in an hour.
//!   The data of a WRITE stay where they were received, page-aligned, and are handed over as a
//!   [`Payload`].
//! * A [`Reply`] says what is answered. Its [`Data`] go out as they are: one or more buffers, a
//!   pipe ([`channel::Channel::begin`], with inflight-splice), the same bytes for ever.
//! * [`channel::uring`] carries requests by io_uring, on the core where they were made, and lets a
//!   server do its own I/O on the same ring.
//! * A [`Notification`] tells the kernel something unasked.
//! * Below: [`abi`] has the structures and numbers, [`decode`](mod@decode) makes a request of any
//!   bytes or says why not, [`Request::encode`] plays the kernel.
//!
//! # What it keeps to
//!
//! * No input panics. What is malformed is an error that names the request to be answered.
//! * Every request that wants an answer gets one, and only one: a [`channel::Ticket`] is used up by
//!   answering, and answers EIO when it is dropped.
//! * An opcode that nobody knows is [`Operation::Unknown`], to be answered with ENOSYS.
//! * Times before 1970 keep their fraction; suid and sgid killing, security contexts and
//!   supplementary groups arrive.
//!
//! # What it does not do
//!
//! CUSE beyond its structures; virtiofs; the byte order of another machine; kernels before 5.4.

pub mod abi;
mod attr;
pub mod channel;
pub mod decode;
mod encode;
pub mod mount;
mod name;
mod negotiate;
mod payload;
pub mod quirks;
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
