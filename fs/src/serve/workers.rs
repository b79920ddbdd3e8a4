//! Threads for what has to wait: for the device, for a lock, for other requests.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// Threads at most. Each may wait for a request that a gate holds; further jobs queue.
const THREADS_MAX: usize = 64;
/// An idle thread ends after this time.
const IDLE: Duration = Duration::from_secs(10);

/// Runs jobs, each in a thread that waits for none of the others.
#[derive(Default)]
pub struct Workers {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    is_over: bool,
}

impl Workers {
    /// Runs a job as soon as a thread is free. False where there is none and none can be had: jobs are dropped then, which
    /// answers their requests with EIO.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let mut st = self.shared.state.lock();
        st.jobs.push_back(Box::new(job));
        if st.idle >= st.jobs.len() {
            drop(st);
            self.shared.work.notify_one();
            return true;
        }
        if st.threads == THREADS_MAX {
            return true;
        }
        st.threads += 1;
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("worker".into());
        if let Err(e) = thread.spawn(move || shared.serve()) {
            tracing::error!("no thread for what must wait: {e}");
            st.threads -= 1;
            if st.threads == 0 {
                let lost = std::mem::take(&mut st.jobs);
                drop(st);
                drop(lost);
                return false;
            }
        }
        true
    }

    /// Returns when every job is done and every thread has ended.
    pub fn finish(&self) {
        let mut st = self.shared.state.lock();
        st.is_over = true;
        self.shared.work.notify_all();
        while st.threads > 0 {
            self.shared.ended.wait(&mut st);
        }
    }
}

impl Shared {
    fn serve(&self) {
        let mut st = self.state.lock();
        loop {
            while let Some(job) = st.jobs.pop_front() {
                drop(st);
                // The hook has printed it, and the request that was dropped answered EIO.
                let _ = catch_unwind(AssertUnwindSafe(job));
                st = self.state.lock();
            }
            let over = st.is_over || {
                st.idle += 1;
                let timeout = self.work.wait_for(&mut st, IDLE).timed_out();
                st.idle -= 1;
                timeout
            };
            if over && st.jobs.is_empty() {
                st.threads -= 1;
                self.ended.notify_all();
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_job_that_waits_holds_no_other_one_up() {
        let workers = Workers::default();
        let (release, parked) = mpsc::channel::<()>();
        let (done, seen) = mpsc::channel();
        let first = done.clone();
        workers.run(move || {
            let _ = parked.recv();
            let _ = first.send(1);
        });
        workers.run(move || {
            let _ = done.send(2);
        });
        let bound = Duration::from_secs(60);
        assert_eq!(seen.recv_timeout(bound), Ok(2));
        release.send(()).expect("the first job waits");
        assert_eq!(seen.recv_timeout(bound), Ok(1));
    }
}
