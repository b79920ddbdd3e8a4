//! Sockets that hold pages of user memory: AF_XDP pins, MSG_ZEROCOPY refers, AF_ALG pins since 6.5.
#![allow(unsafe_code)]

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, AlgAddr, SockFlag, SockType, accept, bind, socket};

use super::pins_taken::{PAGES, PART, counted};
use crate::kit::memory::{Buffer, Memory, PAGE};
use crate::kit::seen::Seen;
use crate::kit::verdict::not_run;

fn set<T>(socket: i32, level: i32, name: i32, value: &T) -> Result<(), Errno> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of the value, which is that long.
    let result = unsafe { libc::setsockopt(socket, level, name, (&raw const *value).cast(), len) };
    Errno::result(result).map(drop)
}

/// An XDP umem (XDP_UMEM_REG): a long pin that involves no file at all.
///
/// # Errors
/// NOTRUN without AF_XDP or the privilege.
pub(super) fn xdp() -> anyhow::Result<Seen> {
    let buffer = Buffer::new(Memory::Anon, PAGES * PAGE)?;
    counted(|| {
        // SAFETY: no memory operands.
        let raw = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        let raw = Errno::result(raw).map_err(|errno| not_run(format!("AF_XDP: {errno}")))?;
        // SAFETY: just made, and owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: plain data, for which zeroes are valid.
        let mut umem: libc::xdp_umem_reg = unsafe { std::mem::zeroed() };
        (umem.addr, umem.len) = (buffer.ptr() as u64, buffer.len() as u64);
        umem.chunk_size = PAGE as u32;
        set(socket.as_raw_fd(), libc::SOL_XDP, libc::XDP_UMEM_REG, &umem)
            .map_err(|errno| not_run(format!("XDP_UMEM_REG: {errno}")))
    })
}

/// send(2) with MSG_ZEROCOPY over loopback: references.
///
/// # Errors
/// NOTRUN where it is refused.
pub(super) fn zerocopy() -> anyhow::Result<Seen> {
    let listener =
        TcpListener::bind("127.0.0.1:0").map_err(|error| not_run(format!("lo: {error}")))?;
    let sender = TcpStream::connect(listener.local_addr()?)
        .map_err(|error| not_run(format!("lo: {error}")))?;
    let (mut receiver, _) = listener.accept().context("accept")?;
    set(sender.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, &1i32)
        .map_err(|errno| not_run(format!("SO_ZEROCOPY: {errno}")))?;
    let buffer = Buffer::new(Memory::Anon, PART)?;
    let mut received = vec![0; PART];
    counted(|| {
        for _ in 0..PAGES * PAGE / PART {
            // SAFETY: the kernel reads the buffer, which stays mapped until all was received.
            let sent = unsafe {
                libc::send(sender.as_raw_fd(), buffer.ptr().cast(), PART, libc::MSG_ZEROCOPY)
            };
            let sent = Errno::result(sent).context("send with MSG_ZEROCOPY")? as usize;
            receiver.read_exact(&mut received[..sent])?;
        }
        Ok(())
    })
}

/// send(2) into an AF_ALG hash, which reads the memory in place.
///
/// # Errors
/// NOTRUN without AF_ALG.
pub(super) fn alg() -> anyhow::Result<Seen> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let alg = socket(AddressFamily::Alg, SockType::SeqPacket, flags, None)
        .map_err(|errno| not_run(format!("AF_ALG: {errno}")))?;
    bind(alg.as_raw_fd(), &AlgAddr::new("hash", "sha256"))
        .map_err(|errno| not_run(format!("AF_ALG hash sha256: {errno}")))?;
    // SAFETY: accept gives a new descriptor, owned by nobody else.
    let hash = unsafe { OwnedFd::from_raw_fd(accept(alg.as_raw_fd()).context("accept")?) };
    let buffer = Buffer::new(Memory::Anon, PART)?;
    counted(|| {
        for _ in 0..PAGES * PAGE / PART {
            // SAFETY: the kernel reads the buffer during the call.
            let sent =
                unsafe { libc::send(hash.as_raw_fd(), buffer.ptr().cast(), PART, libc::MSG_MORE) };
            Errno::result(sent).context("send to AF_ALG")?;
        }
        Ok(())
    })
}
