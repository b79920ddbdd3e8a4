//! The queue where io_uring is refused: threads that pread and pwrite.

use std::collections::VecDeque;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use crate::engine::task::Task;

pub(crate) struct WorkerQueue {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Task>,
    stopping: bool,
}

impl WorkerQueue {
    /// `count` threads, at least one.
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let mut queue = Self { shared: Arc::default(), workers: Vec::new() };
        for i in 0..count.max(1) {
            let shared = Arc::clone(&queue.shared);
            let thread = std::thread::Builder::new().name(format!("dio-worker-{i}"));
            queue.workers.push(thread.spawn(move || shared.work())?);
        }
        Ok(queue)
    }

    pub(crate) fn submit(&self, tasks: impl IntoIterator<Item = Task>) {
        let mut state = self.shared.state.lock();
        for task in tasks {
            state.waiting.push_back(task);
            self.shared.work.notify_one();
        }
    }
}

impl Shared {
    fn work(&self) {
        while let Some(task) = self.next() {
            // As in the ring's completion thread: one callback's panic is not the others' loss.
            let _ = std::panic::catch_unwind(AssertUnwindSafe(|| task.run()));
        }
    }

    /// The next task; `None` when there is none and none will come.
    fn next(&self) -> Option<Task> {
        let mut state = self.state.lock();
        loop {
            if let Some(task) = state.waiting.pop_front() {
                return Some(task);
            }
            if state.stopping {
                return None;
            }
            self.work.wait(&mut state);
        }
    }
}

impl Drop for WorkerQueue {
    /// Waits for all tasks; from inside a callback, for those of the other threads.
    fn drop(&mut self) {
        self.shared.state.lock().stopping = true;
        self.shared.work.notify_all();
        let me = std::thread::current().id();
        for worker in self.workers.drain(..).filter(|w| w.thread().id() != me) {
            worker.join().expect("a worker catches its callbacks' panics");
        }
    }
}
