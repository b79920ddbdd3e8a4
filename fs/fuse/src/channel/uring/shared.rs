//! What a queue's thread shares with those who answer its requests.

use super::compose::{Composed, compose};
use super::plan::Plan;
use crate::abi::OutHeader;
use crate::channel::SendError;
use crate::encode::Frame;
use inflight_dio::{Buffer, Lender, Pool};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// What the queue's thread is told. Its own answers go this way too: the lock is free then.
pub(super) enum Note {
    /// An answer that lies in its entry's buffer.
    Commit { entry: usize, header: OutHeader, len: usize, buffer: Buffer },
    /// An answer to a request whose data somebody still has.
    Later { entry: usize, frame: Box<Frame> },
    /// Those data are back.
    Returned { entry: usize },
    /// There will be no answer.
    Abandoned { entry: usize },
    /// The connection is over.
    Close,
}

/// Lock order: `state` only; nothing is taken or called under it.
#[derive(Default)]
struct State {
    notes: Vec<Note>,
    is_asleep: bool,
    is_closed: bool,
}

pub(super) struct Shared {
    pub(super) queue: u16,
    pub(super) event: EventFd,
    /// Where the ring puts the event counter.
    pub(super) count: AtomicU64,
    /// The entries' buffers.
    pub(super) lenders: Vec<Arc<Lender>>,
    /// Entries that wait for theirs.
    pub(super) waiting: Vec<AtomicBool>,
    /// The entries' headers.
    pub(super) headers: Buffer,
    /// Entries that are with the kernel, ready for a request.
    pub(super) idle: AtomicUsize,
    /// Why the ring has not registered the buffers.
    pub(super) unregistered: OnceLock<Errno>,
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn new(queue: u16, pool: &Pool, plan: &Plan) -> io::Result<Arc<Shared>> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        let buffers = (0..plan.depth).map(|_| pool.try_take(plan.payload as usize));
        let buffers = buffers.collect::<io::Result<Vec<_>>>()?;
        let headers = pool.try_take(plan.header_bytes())?;
        Ok(Arc::new_cyclic(|own: &Weak<Shared>| {
            let lender = |(entry, buffer)| {
                let own = Weak::clone(own);
                Lender::new(buffer, move || {
                    if let Some(shared) = own.upgrade() {
                        shared.returned(entry);
                    }
                })
            };
            Shared {
                queue,
                event,
                count: AtomicU64::new(0),
                lenders: buffers.into_iter().enumerate().map(lender).collect(),
                waiting: (0..plan.depth).map(|_| AtomicBool::new(false)).collect(),
                headers,
                idle: AtomicUsize::new(0),
                unregistered: OnceLock::new(),
                state: Mutex::default(),
            }
        }))
    }

    /// Somebody dropped an entry's buffer.
    fn returned(&self, entry: usize) {
        // See `Lender::lend` for why this sees who found it lent.
        if self.waiting[entry].load(Ordering::Acquire) {
            let _ = self.post(Note::Returned { entry });
        }
    }

    /// Leaves a note, and wakes the thread if it sleeps.
    ///
    /// # Errors
    /// The note, when the queue is closed.
    pub(super) fn post(&self, note: Note) -> Result<(), Note> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(note);
        }
        state.notes.push(note);
        let is_asleep = std::mem::take(&mut state.is_asleep);
        drop(state);
        if is_asleep {
            self.wake();
        }
        Ok(())
    }

    pub(super) fn wake(&self) {
        self.event.write(1).expect("a counter that is read at every wake-up cannot overflow");
    }

    /// The notes so far into `notes`. Without any, the thread says that it sleeps from now on.
    pub(super) fn take(&self, notes: &mut Vec<Note>) {
        let mut state = self.state.lock();
        std::mem::swap(&mut state.notes, notes);
        state.is_asleep = notes.is_empty();
    }

    pub(super) fn awake(&self) {
        self.state.lock().is_asleep = false;
    }

    /// No more notes; what was left is dropped.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let notes = std::mem::take(&mut state.notes);
        drop(state);
        // A buffer in a note calls back when it is dropped.
        drop(notes);
    }
}

/// The way of an answer to a queue's entry.
pub(in crate::channel) struct RingRoute {
    pub(super) shared: Arc<Shared>,
    pub(super) entry: usize,
    pub(super) buffer: Option<Buffer>,
}

impl RingRoute {
    /// Puts the answer into the entry's buffer and hands it to the queue.
    pub(in crate::channel) fn send(self, frame: Frame) -> Result<(), SendError> {
        let RingRoute { shared, entry, buffer } = self;
        let (note, result) = match compose(&shared.lenders[entry], buffer, frame) {
            Composed::Ready { header, len, buffer } => {
                (Note::Commit { entry, header, len, buffer }, Ok(()))
            }
            Composed::Lent(frame) => (Note::Later { entry, frame }, Ok(())),
            Composed::Refused { header, buffer, error } => {
                (Note::Commit { entry, header, len: 0, buffer }, Err(SendError::Io(error)))
            }
        };
        shared.post(note).map_err(|_| SendError::Disconnected)?;
        result
    }

    pub(in crate::channel) fn abandon(self) {
        let _ = self.shared.post(Note::Abandoned { entry: self.entry });
    }

    /// The entry's buffer, unless the request's data lie in it.
    pub(in crate::channel) fn take_buffer(&mut self) -> Option<Buffer> {
        self.buffer.take()
    }

    /// Entries of the queue that can still take a request.
    pub(in crate::channel) fn idle(&self) -> usize {
        self.shared.idle.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for RingRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "entry {} of queue {}", self.entry, self.shared.queue)
    }
}
