//! The queue over io_uring: any thread submits, one thread completes.
//!
//! Lock order: `state` is the only lock. It is not held across a system call or a callback.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;

use io_uring::opcode;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::engine::task::Task;
use crate::pool::Pool;
use crate::ring::{DEPTH, Ring};

/// `user_data` of the entry that only wakes the completion thread.
const WAKE: u64 = u64::MAX;

pub(crate) struct RingQueue {
    shared: Arc<Shared>,
    reaper: Option<JoinHandle<()>>,
}

struct Shared {
    /// The pool, if its slabs are fixed buffers of `ring`.
    fixed: Option<Pool>,
    ring: Arc<Ring>,
    state: Mutex<State>,
    idle: Condvar,
}

struct State {
    /// Not yet seen by the kernel.
    waiting: VecDeque<Task>,
    /// With the kernel, by `user_data`. At most DEPTH, so the completion queue cannot overflow.
    flying: Vec<Option<Task>>,
    /// Empty places of `flying`.
    vacant: Vec<usize>,
    /// Tasks accepted whose callback has not returned.
    active: usize,
    /// Somebody is filling the submission queue. Whoever comes meanwhile only leaves a task.
    submitting: bool,
    stopping: bool,
}

impl RingQueue {
    /// A queue on `ring`, which the caller has claimed.
    ///
    /// `fixed` is the pool whose slabs are its fixed buffers, if it has any.
    pub(crate) fn new(fixed: Option<Pool>, ring: Arc<Ring>) -> io::Result<Self> {
        let depth = DEPTH.min(ring.uring.params().sq_entries()) as usize;
        let shared = Arc::new(Shared {
            fixed,
            ring,
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                flying: (0..depth).map(|_| None).collect(),
                vacant: (0..depth).rev().collect(),
                active: 0,
                submitting: false,
                stopping: false,
            }),
            idle: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let reaper =
            std::thread::Builder::new().name("dio-complete".into()).spawn(move || theirs.reap())?;
        Ok(Self { shared, reaper: Some(reaper) })
    }

    /// Queues tasks and enters the kernel once for all of them.
    pub(crate) fn submit(&self, tasks: impl IntoIterator<Item = Task>) {
        let mut state = self.shared.state.lock();
        for task in tasks {
            state.active += 1;
            state.waiting.push_back(task);
        }
        self.shared.pump(state);
    }
}

impl Drop for RingQueue {
    /// Waits for what is in flight, callbacks included; from inside a callback, leaves that to the
    /// completion thread.
    fn drop(&mut self) {
        let reaper = self.reaper.take().expect("taken only here");
        let inside = reaper.thread().id() == std::thread::current().id();
        let mut state = self.shared.state.lock();
        state.stopping = true;
        if inside {
            return;
        }
        self.shared.idle.wait_while(&mut state, |s| s.active > 0 || s.submitting);
        state.submitting = true;
        drop(state);
        // SAFETY: `submitting` is ours until the end, so nobody else touches the queue's tail.
        let mut queue = unsafe { self.shared.ring.uring.submission_shared() };
        // SAFETY: a no-op refers to no memory.
        unsafe { queue.push(&opcode::Nop::new().build().user_data(WAKE)) }.expect("queue is idle");
        drop(queue);
        self.shared.enter();
        reaper.join().expect("the completion thread catches its callbacks' panics");
    }
}

impl Shared {
    /// Moves waiting tasks to the kernel for as long as there are any and there is room.
    fn pump<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.submitting {
            return;
        }
        state.submitting = true;
        while self.fill(&mut state) > 0 {
            drop(state);
            self.enter();
            state = self.state.lock();
        }
        state.submitting = false;
        if state.active == 0 {
            self.idle.notify_all();
        }
    }

    /// Puts entries into the submission queue. The caller has set `submitting`.
    fn fill(&self, state: &mut State) -> usize {
        // SAFETY: `submitting` makes this the only user of the queue's tail.
        let mut queue = unsafe { self.ring.uring.submission_shared() };
        let mut filled = 0;
        while !state.waiting.is_empty() {
            let Some(place) = state.vacant.pop() else { break };
            let mut task = state.waiting.pop_front().expect("checked above");
            let entry = task.entry(self.fixed.as_ref()).user_data(place as u64);
            // SAFETY: what the entry points to is owned by the task, which stays in `flying`
            // until its completion was taken from the queue.
            unsafe { queue.push(&entry) }.expect("no more entries than places");
            state.flying[place] = Some(task);
            filled += 1;
        }
        filled
    }

    /// io_uring_enter(2): hands over all that is in the submission queue.
    fn enter(&self) {
        loop {
            // SAFETY: only read, for its length; `submitting` is held by the caller.
            let left = unsafe { self.ring.uring.submission_shared() }.len();
            if left == 0 {
                return;
            }
            match self.ring.uring.submit() {
                Ok(_) => {}
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // Out of request memory for now: requests complete and free theirs.
                    Some(libc::EAGAIN | libc::EBUSY) => std::thread::yield_now(),
                    _ => panic!("io_uring_enter on a ring that works: {e}"),
                },
            }
        }
    }

    /// The completion thread.
    fn reap(&self) {
        let mut finished = Vec::new();
        loop {
            self.wait();
            self.collect(&mut finished);
            self.pump(self.state.lock());
            let count = finished.len();
            for (task, result) in finished.drain(..) {
                let task: Task = task;
                // A panic in a callback is the caller's; the hook has printed it. The others
                // must still get their buffers.
                let _ = std::panic::catch_unwind(AssertUnwindSafe(|| task.finish(result)));
            }
            let mut state = self.state.lock();
            state.active -= count;
            if state.active == 0 {
                self.idle.notify_all();
                if state.stopping {
                    return;
                }
            }
        }
    }

    /// Blocks until there is a completion.
    fn wait(&self) {
        const GETEVENTS: u32 = 1;
        // SAFETY: no argument structure; to_submit is 0, so the submission queue is not touched.
        let _ = unsafe { self.ring.uring.submitter().enter::<()>(0, 1, GETEVENTS, None) };
        // An error can only be EINTR: the loop looks at the queue and comes back.
    }

    /// Takes completions; unfinished tasks go back to the front of the line.
    fn collect(&self, finished: &mut Vec<(Task, io::Result<usize>)>) {
        // SAFETY: only the completion thread, which this is, touches the completion queue.
        let queue = unsafe { self.ring.uring.completion_shared() };
        let mut state = self.state.lock();
        for event in queue {
            if event.user_data() == WAKE {
                continue;
            }
            let place = event.user_data() as usize;
            let mut task = state.flying[place].take().expect("one completion for each entry");
            state.vacant.push(place);
            let result = match event.result() {
                n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
                n => Ok(n as usize),
            };
            match task.advance(result) {
                Some(result) => finished.push((task, result)),
                None => state.waiting.push_front(task),
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.ring.release();
    }
}
