//! Whether requests are taken off the device, and into which memory: two windows in the kernel.
//!
//! While an [`Intake`] is shut, no receiver reads. The first one that comes watches the device with
//! poll(2), which tells that something waits there and takes nothing; when the intake is opened it
//! reads once before any other does, so that what was in front is known. A [`Trap`] has a request
//! received into memory of which a page is missing, so that the kernel waits in the middle of the copy.

use super::turn::Turn;
use crate::abi::InHeader;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::{Condvar, Mutex};
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use zerocopy::FromBytes as _;

/// How long [`Intake::shut`] waits for those who are reading. A read(2) takes what is there or nothing:
/// only one that is itself held takes as long.
const READERS: Duration = Duration::from_secs(1);

/// Who is told what is seen at a shut intake. Called under no lock of the intake.
pub trait Watcher: Send + Sync {
    /// Something waits in the kernel, and was not taken. Told once each time it is shut.
    fn waits(&self);

    /// The first read(2) after it was opened took this request, or nothing; before any other is read.
    fn first(&self, taken: Option<InHeader>);
}

/// One read(2) of the device into these two pieces, in order.
pub type Read<'a> = &'a mut dyn FnMut(&mut [u8], &mut [u8]) -> nix::Result<usize>;

/// Memory that a request is received into in place of the receiver's.
pub trait Trap: Send + Sync + fmt::Debug {
    /// Has `read` fill memory of the trap's, and copies what came to `into`. `None` when it is in use: then
    /// nothing was read. `others` lets another thread receive, should the read have to wait.
    fn receive(
        &self,
        read: Read<'_>,
        into: (&mut [u8], &mut [u8]),
        others: Box<dyn Fn() + Send>,
    ) -> Option<nix::Result<usize>>;

    /// No further request is received into it. One that is being received stays.
    fn end(&self);
}

#[derive(Debug, Default)]
struct State {
    is_shut: bool,
    /// It is to be opened by who watches the device.
    is_opening: bool,
    is_watched: bool,
    reading: usize,
}

/// The way of requests off a device, which can be shut. Receivers of a channel that has one
/// ([`Config::intake`](super::Config::intake)) wait in poll(2), never in read(2).
pub struct Intake {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes who watches the device.
    bell: EventFd,
    watcher: OnceLock<Box<dyn Watcher>>,
    trap: Mutex<Option<Arc<dyn Trap>>>,
}

/// What a receiver may do.
enum Entry {
    Read,
    Watch,
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("state", &*self.state.lock()).finish_non_exhaustive()
    }
}

impl Intake {
    /// An open one.
    ///
    /// # Errors
    /// eventfd(2).
    pub fn new() -> io::Result<Intake> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Intake {
            state: Mutex::default(),
            changed: Condvar::new(),
            bell,
            watcher: OnceLock::new(),
            trap: Mutex::default(),
        })
    }

    /// Names who is told; the first one counts.
    pub fn watch(&self, watcher: Box<dyn Watcher>) {
        let _ = self.watcher.set(watcher);
    }

    /// Has requests received into a trap's memory, or no longer.
    pub fn set_trap(&self, trap: Option<Arc<dyn Trap>>) {
        let last = std::mem::replace(&mut *self.trap.lock(), trap);
        last.iter().for_each(|trap| trap.end());
    }

    /// Shuts it. When this returns nobody is reading. `false`: it stayed shut, or a read(2) did not end,
    /// for a second; nothing is changed.
    #[must_use]
    pub fn shut(&self) -> bool {
        let end = Instant::now() + READERS;
        let mut state = self.state.lock();
        // It may be about to be opened.
        while state.is_shut {
            if self.changed.wait_until(&mut state, end).timed_out() && state.is_shut {
                return false;
            }
        }
        state.is_shut = true;
        while state.reading > 0 {
            if self.changed.wait_until(&mut state, end).timed_out() && state.reading > 0 {
                state.is_shut = false;
                self.changed.notify_all();
                return false;
            }
        }
        true
    }

    /// Opens it. Gives whether [`Watcher::first`] will be called: not when no receiver had come to it.
    pub fn open(&self) -> bool {
        let mut state = self.state.lock();
        if state.is_shut && state.is_watched {
            state.is_opening = true;
            // It cannot fail: nobody writes 2^64 of them.
            let _ = self.bell.write(1);
            return true;
        }
        state.is_shut = false;
        self.changed.notify_all();
        false
    }

    /// A read of `device` when it may be read: waits while it is shut.
    pub(super) fn take(
        &self,
        device: BorrowedFd<'_>,
        read: Read<'_>,
        into: (&mut [u8], &mut [u8]),
        turn: Option<&Turn>,
    ) -> nix::Result<usize> {
        match self.enter() {
            Entry::Read => {
                let taken = self.read(read, into, turn);
                self.state.lock().reading -= 1;
                self.changed.notify_all();
                taken
            }
            Entry::Watch => {
                self.stand(device);
                let (head, tail) = into;
                let taken = self.read(read, (&mut *head, tail), turn);
                // What was read is told before anybody else reads.
                let header = taken.ok().and_then(|len| head.get(..len.min(head.len())));
                let header = header.and_then(|head| InHeader::read_from_prefix(head).ok());
                self.tell(|watcher| watcher.first(header.map(|(header, _)| header)));
                let _ = self.bell.read();
                *self.state.lock() = State::default();
                self.changed.notify_all();
                taken
            }
        }
    }

    fn enter(&self) -> Entry {
        let mut state = self.state.lock();
        loop {
            if !state.is_shut {
                state.reading += 1;
                return Entry::Read;
            }
            if !state.is_watched {
                state.is_watched = true;
                return Entry::Watch;
            }
            self.changed.wait(&mut state);
        }
    }

    fn read(
        &self,
        read: Read<'_>,
        (head, tail): (&mut [u8], &mut [u8]),
        turn: Option<&Turn>,
    ) -> nix::Result<usize> {
        let trap = self.trap.lock().clone();
        if let Some(trap) = trap {
            let turn = turn.cloned();
            let others = move || turn.iter().for_each(Turn::give_up);
            if let Some(taken) = trap.receive(read, (&mut *head, &mut *tail), Box::new(others)) {
                return taken;
            }
        }
        read(head, tail)
    }

    /// Watches the device until the intake is to be opened, or the connection is over.
    fn stand(&self, device: BorrowedFd<'_>) {
        let mut has_told = false;
        while !self.state.lock().is_opening {
            // Without POLLIN only the end of the connection is told.
            let wanted = if has_told { PollFlags::empty() } else { PollFlags::POLLIN };
            let mut polled =
                [PollFd::new(device, wanted), PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            }
            let seen = polled[0].revents().unwrap_or(PollFlags::empty());
            if seen.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
                return;
            }
            if seen.contains(PollFlags::POLLIN) {
                has_told = true;
                self.tell(|watcher| watcher.waits());
            }
        }
    }

    fn tell(&self, what: impl FnOnce(&dyn Watcher)) {
        if let Some(watcher) = self.watcher.get() {
            what(&**watcher);
        }
    }
}
