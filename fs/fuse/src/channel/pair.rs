//! A socket of whole messages between a server and whoever plays the kernel for it.
//!
//! A server of libfuse3, of the crate fuser or of this crate mounts on the descriptor as on
//! `/dev/fd/N`; the other end is a [`Kernel`], which passes on what it gets from the device.

use super::Link;
use super::message::Message;
use super::turn::Turn;
use crate::abi::OutHeader;
use crate::payload::Payload;
use inflight_dio::{Buffer, Pool};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, getsockopt, recvmsg, sendmsg, setsockopt,
    shutdown, socketpair, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use zerocopy::FromBytes as _;

/// Two connected sockets that carry messages of up to `message_max` bytes: the server's and the
/// kernel's. The server's is inherited by nobody until `FD_CLOEXEC` is taken from it.
///
/// # Errors
/// socketpair(2); EMSGSIZE when `net.core.wmem_max` is too small for such messages and the caller
/// is not privileged (`SO_SNDBUFFORCE`).
pub fn sockets(message_max: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (server, kernel) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    for socket in [&server, &kernel] {
        // The kernel's own record of a message counts too (unix(7)).
        let bytes = message_max + message_max / 2 + 4096;
        if setsockopt(socket, sockopt::SndBufForce, &bytes).is_err() {
            setsockopt(socket, sockopt::SndBuf, &bytes)?;
        }
        if getsockopt(socket, sockopt::SndBuf)? < message_max + 4096 {
            return Err(Errno::EMSGSIZE.into());
        }
    }
    Ok((server, kernel))
}

#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    pub(super) fn new(fd: OwnedFd) -> Socket {
        Socket { fd }
    }
}

fn send(socket: &OwnedFd, pieces: &[IoSlice<'_>]) -> io::Result<()> {
    sendmsg::<()>(socket.as_raw_fd(), pieces, &[], MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

fn receive(socket: &OwnedFd, head: &mut [u8], tail: &mut [u8]) -> io::Result<usize> {
    let mut pieces = [IoSliceMut::new(head), IoSliceMut::new(tail)];
    let got = recvmsg::<()>(socket.as_raw_fd(), &mut pieces, None, MsgFlags::empty())?;
    if got.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(Errno::EMSGSIZE.into());
    }
    Ok(got.bytes)
}

impl Link for Socket {
    fn receive(&self, head: &mut [u8], tail: &mut [u8], _: Option<&Turn>) -> io::Result<usize> {
        receive(&self.fd, head, tail)
    }

    fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        send(&self.fd, pieces)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn is_aligned(&self) -> bool {
        true
    }
}

/// One message of a server, as it came. It is an answer or a notification unless the server spliced
/// it: a socket takes 16 pipe buffers at a time (`splice_to_socket` in fs/splice.c), and each time
/// makes a message of its own.
#[derive(Debug)]
pub struct Part {
    head: [u8; size_of::<OutHeader>()],
    head_len: usize,
    data: Payload,
}

impl Part {
    /// The header that it begins with, if it is the beginning of something.
    pub fn header(&self) -> Option<OutHeader> {
        (self.head_len == self.head.len())
            .then(|| OutHeader::read_from_bytes(&self.head).ok())
            .flatten()
    }

    /// Its bytes, in two pieces.
    pub fn slices(&self) -> [&[u8]; 2] {
        [&self.head[..self.head_len], self.data.as_slice()]
    }

    /// Number of bytes; never 0.
    pub fn len(&self) -> usize {
        self.head_len + self.data.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole that it is.
    ///
    /// # Errors
    /// The part itself when it has another length than its header says.
    pub fn into_answer(self) -> Result<Answer, Part> {
        match self.header() {
            Some(header) if header.len as usize == self.len() => {
                Ok(Answer { header, data: self.data })
            }
            _ => Err(self),
        }
    }
}

/// An answer or a notification of a server.
#[derive(Debug)]
pub struct Answer {
    header: OutHeader,
    data: Payload,
}

impl Answer {
    /// One that was put together: a header and what follows it.
    pub fn new(header: OutHeader, data: Payload) -> Answer {
        Answer { header, data }
    }

    /// Its header. With a `unique` of 0 it is a notification and `error` its code.
    pub fn header(&self) -> OutHeader {
        self.header
    }

    /// What follows the header; page-aligned if it came in one message.
    pub fn data(&self) -> &[u8] {
        self.data.as_slice()
    }

    /// The errno, if it says that the request failed.
    pub fn errno(&self) -> Option<Errno> {
        let error = self.header.error;
        (self.header.unique != 0 && error != 0).then(|| Errno::from_raw(error.wrapping_neg()))
    }
}

/// The kernel's end. One thread may send while another receives.
#[derive(Debug)]
pub struct Kernel {
    socket: OwnedFd,
    pool: Pool,
    message_max: usize,
}

impl Kernel {
    /// Over one of [`sockets`]. Answers of up to `message_max` bytes go into buffers of `pool`.
    pub fn new(socket: OwnedFd, pool: Pool, message_max: usize) -> Kernel {
        Kernel { socket, pool, message_max }
    }

    /// Sends a request that came from elsewhere.
    ///
    /// # Errors
    /// EPIPE when the server is gone; EMSGSIZE.
    pub fn pass(&self, message: &Message) -> io::Result<()> {
        self.send(&message.io_slices())
    }

    /// Sends a request in bytes.
    ///
    /// # Errors
    /// As [`Kernel::pass`].
    pub fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match send(&self.socket, pieces) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent,
            }
        }
    }

    /// The next answer or notification; `None` when the server is gone.
    ///
    /// # Errors
    /// recvmsg(2); EBADMSG for what is shorter than a header or has another length than it says,
    /// which the answers of a server that splices may: see [`Kernel::receive_part`].
    pub fn receive(&self) -> io::Result<Option<Answer>> {
        let answer = self.receive_part()?.map(Part::into_answer).transpose();
        answer.map_err(|_| Errno::EBADMSG.into())
    }

    /// The next message, whatever is in it; `None` when the server is gone.
    ///
    /// # Errors
    /// recvmsg(2); EMSGSIZE for what is longer than the messages agreed upon.
    pub fn receive_part(&self) -> io::Result<Option<Part>> {
        let mut head = [0; size_of::<OutHeader>()];
        let mut buffer: Buffer = self.pool.try_take(self.message_max)?;
        buffer.set_len(self.message_max);
        let len = loop {
            match receive(&self.socket, &mut head, buffer.as_mut_slice()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ECONNRESET) => return Ok(None),
                got => break got?,
            }
        };
        if len == 0 {
            return Ok(None);
        }
        let head_len = len.min(head.len());
        buffer.set_len(len - head_len);
        Ok(Some(Part { head, head_len, data: buffer.into() }))
    }

    /// Ends the connection: the server's receivers say closed, and [`Kernel::receive`] ends.
    pub fn close(&self) {
        // It fails only when the other end did the same before.
        let _ = shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }

    /// The socket, for poll(2).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
