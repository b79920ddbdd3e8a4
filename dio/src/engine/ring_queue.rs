//! The queue over io_uring: any thread leaves its requests, one thread submits and completes.
//!
//! One thread, because io_uring finishes a request in the thread that submitted it: that thread is
//! interrupted in whatever system call it sleeps in, some of which then fail with `EINTR`. Users of
//! the engine must not notice it, so only the engine's own thread ever enters the ring.
//!
//! Lock order: `state` is the only lock. It is not held across a system call or a callback.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;

use io_uring::{opcode, squeue, types::Fd};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::{Mutex, MutexGuard};

use crate::engine::task::Task;
use crate::pool::Pool;
use crate::ring::{DEPTH, Ring};

/// `user_data` of the read of the event counter that wakes the thread.
const WAKE: u64 = u64::MAX;

pub(crate) struct RingQueue {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// The pool, if its slabs are fixed buffers of `ring`.
    fixed: Option<Pool>,
    ring: Arc<Ring>,
    state: Mutex<State>,
    /// Written by whoever leaves a task for a sleeping thread.
    event: EventFd,
    /// Where the kernel puts the counter of `event`. Nobody looks at it.
    count: AtomicU64,
}

struct State {
    /// Not yet seen by the kernel.
    waiting: VecDeque<Task>,
    /// The thread is, or is about to be, asleep in the kernel.
    asleep: bool,
    stopping: bool,
}

/// What only the engine's thread touches.
struct Flight {
    /// With the kernel, by `user_data`. One place less than the submission queue has, for the read
    /// of the event counter; and so the completion queue, twice as long, cannot overflow.
    flying: Vec<Option<Task>>,
    /// Empty places of `flying`.
    vacant: Vec<usize>,
    /// To be tried again, and done.
    again: VecDeque<Task>,
    finished: Vec<(Task, io::Result<usize>)>,
    /// The read of the event counter is with the kernel.
    armed: bool,
}

impl RingQueue {
    /// A queue on `ring`, which the caller has claimed. `fixed` is the pool whose slabs are its
    /// fixed buffers, if it has any.
    pub(crate) fn new(fixed: Option<Pool>, ring: Arc<Ring>) -> io::Result<Self> {
        let state = State { waiting: VecDeque::new(), asleep: false, stopping: false };
        let shared = Arc::new(Shared {
            fixed,
            ring,
            state: Mutex::new(state),
            event: EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?,
            count: AtomicU64::new(0),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("dio-queue".into());
        let thread = thread.spawn(move || Flight::new(&theirs).run(&theirs))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Leaves tasks for the thread, which enters the kernel once for all that it finds.
    pub(crate) fn submit(&self, tasks: impl IntoIterator<Item = Task>) {
        let mut state = self.shared.state.lock();
        state.waiting.extend(tasks);
        self.shared.wake(state);
    }
}

impl Drop for RingQueue {
    /// Waits for what is in flight, callbacks included; from inside a callback, leaves that to the
    /// thread.
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.stopping = true;
        self.shared.wake(state);
        let thread = self.thread.take().expect("taken only here");
        if thread.thread().id() != std::thread::current().id() {
            thread.join().expect("the queue's thread catches its callbacks' panics");
        }
    }
}

impl Shared {
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.event.write(1).expect("a counter that is read at every wake-up cannot overflow");
        }
    }

    /// The read of the event counter, which completes at the next wake.
    fn wake_entry(&self) -> squeue::Entry {
        let (fd, place) = (Fd(self.event.as_fd().as_raw_fd()), self.count.as_ptr().cast());
        opcode::Read::new(fd, place, 8).build().user_data(WAKE)
    }
}

impl Flight {
    fn new(shared: &Shared) -> Self {
        let depth = DEPTH.min(shared.ring.uring.params().sq_entries()) as usize - 1;
        Self {
            flying: (0..depth).map(|_| None).collect(),
            vacant: (0..depth).rev().collect(),
            again: VecDeque::new(),
            finished: Vec::new(),
            armed: false,
        }
    }

    /// The thread: submit what waits, sleep, take what is done, call back.
    fn run(mut self, shared: &Shared) {
        while self.fill(shared) {
            self.enter(shared);
            shared.state.lock().asleep = false;
            self.collect(shared);
            for (task, result) in self.finished.drain(..) {
                // A panic in a callback is the caller's; the hook has printed it. The others
                // must still get their buffers.
                let _ = std::panic::catch_unwind(AssertUnwindSafe(|| task.finish(result)));
            }
        }
    }

    /// Puts entries into the submission queue for all tasks that there is room for. False when
    /// the queue is to stop and nothing is left, not even the read of the event counter.
    fn fill(&mut self, shared: &Shared) -> bool {
        // SAFETY: only the queue's thread, which this is, touches the submission queue.
        let mut queue = unsafe { shared.ring.uring.submission_shared() };
        let mut state = shared.state.lock();
        while let Some(&place) = self.vacant.last() {
            let Some(mut task) = self.again.pop_front().or_else(|| state.waiting.pop_front())
            else {
                break;
            };
            let entry = task.entry(shared.fixed.as_ref()).user_data(place as u64);
            // SAFETY: what the entry points to is owned by the task, which stays in `flying`
            // until its completion was taken from the queue.
            unsafe { queue.push(&entry) }.expect("no more entries than places");
            self.flying[place] = Some(task);
            self.vacant.pop();
        }
        let idle = self.vacant.len() == self.flying.len();
        if state.stopping && idle {
            // The read that is still armed would outlive the counter: end it.
            shared.event.write(1).expect("the counter cannot overflow");
            return self.armed;
        }
        if !self.armed {
            // SAFETY: the counter's place is in `shared`, which this thread holds until the read
            // has completed.
            unsafe { queue.push(&shared.wake_entry()) }.expect("one place is left for it");
            self.armed = true;
        }
        state.asleep = true;
        true
    }

    /// io_uring_enter(2): hands over what is in the submission queue and waits for a completion.
    fn enter(&self, shared: &Shared) {
        match shared.ring.uring.submit_and_wait(1) {
            Ok(_) => {}
            Err(e) => match e.raw_os_error() {
                // Interrupted, or out of request memory for now: what was not handed over stays in
                // the submission queue, and what completes frees its own.
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                _ => panic!("io_uring_enter on a ring that works: {e}"),
            },
        }
    }

    /// Takes completions.
    fn collect(&mut self, shared: &Shared) {
        // SAFETY: only the queue's thread, which this is, touches the completion queue.
        for event in unsafe { shared.ring.uring.completion_shared() } {
            if event.user_data() == WAKE {
                self.armed = false;
                continue;
            }
            let place = event.user_data() as usize;
            let mut task = self.flying[place].take().expect("one completion for each entry");
            self.vacant.push(place);
            let result = match event.result() {
                n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
                n => Ok(n as usize),
            };
            match task.advance(result) {
                Some(result) => self.finished.push((task, result)),
                None => self.again.push_back(task),
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.ring.release();
    }
}
