//! Linux AIO by its system calls. The context is not inherited by a fork.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;

use super::thread::{Call, Sent};
use super::{Done, Io, Way};

/// `struct iocb` of include/uapi/linux/aio_abi.h, little-endian.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    reqprio: i16,
    fd: u32,
    buf: u64,
    nbytes: u64,
    offset: i64,
    reserved2: u64,
    flags: u32,
    resfd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

const PREAD: u16 = 0;
const PWRITE: u16 = 1;

/// An AIO context; destroyed on drop, which waits for what is in flight.
#[derive(Debug)]
pub struct Context(u64);

impl Context {
    /// Makes one for up to 64 requests.
    pub fn new() -> anyhow::Result<Context> {
        let mut id = 0u64;
        // SAFETY: writes the id to a local.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, 64, &raw mut id) };
        Errno::result(made).context("io_setup")?;
        Ok(Context(id))
    }

    /// Submits from a thread, because io_submit(2) blocks where a file does not do async I/O.
    pub fn submit(&self, io: Io, cookie: u64) -> anyhow::Result<Call> {
        let (id, sent) = (self.0, Sent(io));
        Call::start(move || {
            let sent = sent;
            submit(id, &sent.0, cookie)
        })
    }

    /// Moves finished requests to `done`; `false` when none finished within the bound.
    pub fn reap(&self, done: &mut BTreeMap<u64, Done>, bound: Duration) -> anyhow::Result<bool> {
        let mut events = [Event::default(); 16];
        let timeout = libc::timespec {
            tv_sec: bound.as_secs() as i64,
            tv_nsec: i64::from(bound.subsec_nanos()),
        };
        // SAFETY: the kernel writes at most 16 events to the array of 16.
        let count = unsafe {
            let (events, timeout) = (events.as_mut_ptr(), &raw const timeout);
            let least = i64::from(!bound.is_zero());
            libc::syscall(libc::SYS_io_getevents, self.0, least, 16, events, timeout)
        };
        let count = match Errno::result(count) {
            Err(Errno::EINTR) => return Ok(true),
            other => other.context("io_getevents")? as usize,
        };
        for event in &events[..count] {
            let result = match event.res {
                count if count >= 0 => Ok(count as usize),
                errno => Err(Errno::from_raw(-errno as i32)),
            };
            done.insert(event.data, result);
        }
        Ok(count > 0)
    }
}

fn submit(id: u64, io: &Io, cookie: u64) -> Done {
    let mut iocb = Iocb {
        data: cookie,
        opcode: if io.way == Way::Read { PREAD } else { PWRITE },
        fd: io.fd as u32,
        buf: io.memory as u64,
        nbytes: io.len as u64,
        offset: io.offset as i64,
        ..Iocb::default()
    };
    let list = [&raw mut iocb];
    // SAFETY: the kernel copies the iocb before it returns; the memory it names is checked by the
    // kernel when it is used.
    let count = unsafe { libc::syscall(libc::SYS_io_submit, id, 1, list.as_ptr()) };
    Errno::result(count).map(|count| count as usize)
}

/// Submits in a context of its own, which ends with the process; see [`super::start_alone`].
pub(super) fn submit_alone(io: &Io) {
    let mut id = 0u64;
    // SAFETY: writes the id to a local.
    unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut id) };
    let _ = submit(id, io, 1);
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is ours, and this is its last use.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}
