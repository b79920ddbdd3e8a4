//! A connection inside the process, for tests of servers: requests are put in by hand, errors
//! are made to happen, answers are looked at.

use super::turn::Turn;
use super::{Channel, Config, Link};
use crate::abi::OutHeader;
use crate::decode::Dialect;
use crate::request::Request;
use nix::errno::Errno;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::FromBytes as _;

/// What the two ends share. One lock; nothing else is taken under it.
#[derive(Debug, Default)]
struct State {
    requests: VecDeque<Result<Vec<u8>, Errno>>,
    answers: VecDeque<Vec<u8>>,
    refusals: VecDeque<Errno>,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct Memory(Arc<Shared>);

/// The kernel's end.
#[derive(Clone, Debug)]
pub struct Kernel(Arc<Shared>);

/// A channel and the kernel's end of it.
pub fn connect(config: Config) -> (Channel, Kernel) {
    let shared = Arc::<Shared>::default();
    let link = Box::new(Memory(Arc::clone(&shared)));
    (Channel::new(link, None, config), Kernel(shared))
}

impl Kernel {
    /// Sends a request.
    ///
    /// # Panics
    /// When it cannot be encoded: a mistake of the test.
    pub fn send(&self, request: &Request, dialect: Dialect) {
        self.send_bytes(request.encode(dialect).expect("a request that can be sent"));
    }

    /// Sends bytes as a request.
    pub fn send_bytes(&self, bytes: Vec<u8>) {
        self.put(Ok(bytes));
    }

    /// Makes a receive fail, after what was sent before.
    pub fn fail_receive(&self, errno: Errno) {
        self.put(Err(errno));
    }

    fn put(&self, request: Result<Vec<u8>, Errno>) {
        self.0.state.lock().requests.push_back(request);
        self.0.changed.notify_all();
    }

    /// Makes the next send that no other refusal is meant for fail.
    pub fn refuse_answer(&self, errno: Errno) {
        self.0.state.lock().refusals.push_back(errno);
    }

    /// Waits up to `patience` for an answer or a notification; its header and what follows.
    pub fn answer(&self, patience: Duration) -> Option<(OutHeader, Vec<u8>)> {
        let mut state = self.0.state.lock();
        let is_waiting = |state: &mut State| state.answers.is_empty();
        self.0.changed.wait_while_for(&mut state, is_waiting, patience);
        let bytes = state.answers.pop_front()?;
        let (header, rest) = OutHeader::read_from_prefix(&bytes).ok()?;
        Some((header, rest.to_vec()))
    }

    /// Unmounts: receivers end when they have taken what was sent.
    pub fn close(&self) {
        self.0.state.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl Link for Memory {
    fn receive(&self, head: &mut [u8], tail: &mut [u8], _: Option<&Turn>) -> io::Result<usize> {
        let mut state = self.0.state.lock();
        let bytes = loop {
            match state.requests.pop_front() {
                Some(bytes) => break bytes?,
                None if state.is_closed => return Err(Errno::ENODEV.into()),
                None => self.0.changed.wait(&mut state),
            }
        };
        if bytes.len() > head.len() + tail.len() {
            return Err(Errno::EIO.into());
        }
        let (first, second) = bytes.split_at(bytes.len().min(head.len()));
        head[..first.len()].copy_from_slice(first);
        tail[..second.len()].copy_from_slice(second);
        Ok(bytes.len())
    }

    fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let mut state = self.0.state.lock();
        if let Some(errno) = state.refusals.pop_front() {
            return Err(errno.into());
        }
        state.answers.push_back(pieces.iter().flat_map(|piece| piece.iter().copied()).collect());
        self.0.changed.notify_all();
        Ok(())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn is_aligned(&self) -> bool {
        true
    }
}
