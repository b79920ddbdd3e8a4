//! Moves pages to another address by UFFDIO_MOVE (6.8), which leaves alone what is pinned.
//!
//! Source: Documentation/admin-guide/mm/userfaultfd.rst; move_pages() in mm/userfaultfd.c.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;

use anyhow::Context;
use nix::errno::Errno;

use super::wp::{API, Api, Register, open_any, range, uffdio_api, uffdio_register};
use super::{Buffer, Memory, PAGE};
use crate::kit::verdict::{Stop, not_run};

const FEATURE_MOVE: u64 = 1 << 16;
const REGISTER_MODE_MISSING: u64 = 1;
/// How often a page that is busy for a moment (EAGAIN) is asked for again.
const TRIES: usize = 1000;

/// `struct uffdio_move`.
#[repr(C)]
struct Move {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    moved: i64,
}

nix::ioctl_readwrite!(uffdio_move, API, 0x05, Move);

impl Buffer {
    /// Moves its pages to another address; at its own there are none then, and the first access makes fresh ones. `None` when
    /// they are busy, as pinned pages are, and stayed.
    ///
    /// # Errors
    /// NOTRUN where the kernel cannot, or this user may not; BROKEN when some of them moved.
    pub fn move_pages_away(&mut self) -> anyhow::Result<Option<Buffer>> {
        let fd = open_any()?;
        let mut api = Api { api: API, features: FEATURE_MOVE, ioctls: 0 };
        // SAFETY: the call reads and fills this struct.
        unsafe { uffdio_api(fd.as_raw_fd(), &raw mut api) }
            .map_err(|errno| not_run(format!("this kernel has no UFFDIO_MOVE (6.8): {errno}")))?;
        let mut target = Buffer::reserve(self.len(), PAGE)?;
        target.map(Memory::Anon)?;
        let (start, len) = range(&target);
        let mut register = Register { start, len, mode: REGISTER_MODE_MISSING, ioctls: 0 };
        // SAFETY: as above; it is a range of ours that has no pages yet.
        unsafe { uffdio_register(fd.as_raw_fd(), &raw mut register) }.context("UFFDIO_REGISTER")?;
        for at in (0..self.len()).step_by(PAGE) {
            let (dst, src) = (target.at(at) as u64, self.at(at) as u64);
            match move_page(fd.as_raw_fd(), dst, src) {
                Ok(()) => {}
                Err(Errno::EBUSY) if at == 0 => return Ok(None),
                Err(errno) => {
                    let text = format!("UFFDIO_MOVE of the page at byte {at}: {errno}");
                    return Err(Stop::Broken(text).into());
                }
            }
        }
        Ok(Some(target))
    }
}

fn move_page(fd: i32, dst: u64, src: u64) -> nix::Result<()> {
    for _ in 0..TRIES {
        let mut page = Move { dst, src, len: PAGE as u64, mode: 0, moved: 0 };
        // SAFETY: both pages are ours; what is at `src` is at `dst` then, and nobody has a reference to either.
        match unsafe { uffdio_move(fd, &raw mut page) } {
            Ok(_) => return Ok(()),
            Err(Errno::EAGAIN) => std::thread::yield_now(),
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::engine::Engines;
    use crate::kit::stamp::POISON;

    #[test]
    fn pages_move_unless_they_are_pinned() {
        let mut buffer = Buffer::new(Memory::Anon, 2 * PAGE).unwrap();
        let moved = match buffer.move_pages_away() {
            Err(error) => return println!("skipped: {error:#}"),
            Ok(moved) => moved.expect("nobody holds them"),
        };
        assert!(moved.bytes(0, 2 * PAGE).iter().all(|&byte| byte == POISON));
        assert!(buffer.bytes(0, 2 * PAGE).iter().all(|&byte| byte == 0));
        let mut engines = Engines::default();
        match engines.register(buffer.ptr(), PAGE) {
            Ok(Ok(())) => assert!(buffer.move_pages_away().unwrap().is_none(), "it is pinned"),
            other => println!("skipped: nothing can be registered: {other:?}"),
        }
    }
}
