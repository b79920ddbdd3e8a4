//! A thread beside the session's, for what has to wait for other requests.

use std::sync::mpsc;

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs one after the other; ends when it is dropped and the last job is done.
pub struct Aside {
    jobs: mpsc::Sender<Job>,
}

impl Aside {
    /// Starts the thread. Without one, jobs are dropped, which answers their requests with EIO.
    pub fn new() -> Aside {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new().name("aside".into());
        let started = thread.spawn(move || queue.into_iter().for_each(|job| job()));
        if let Err(e) = started {
            tracing::error!("no thread for what must wait: {e}");
        }
        Aside { jobs }
    }

    /// Queues a job.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        // A refused job is dropped with the reply in it.
        let _ = self.jobs.send(Box::new(job));
    }
}
