//! fuse-over-io_uring (Linux 6.14): requests arrive on the core where they were made.
//!
//! One [`Queue`] and one thread for each possible core. A request's arguments lie in the queue's
//! own memory and its data in a page-aligned buffer of the queue's, where the answer's data go
//! too; one io_uring_enter(2) answers, hands in what else was queued ([`Queue::read_at`] and the
//! like) and waits. Answers from other threads are passed to the queue's thread.
//!
//! What does not come this way comes by the device: FORGET, INTERRUPT and what was sent before
//! the last queue was there; and notifications go by it. [`Prepared::start`] serves both.
//!
//! ```no_run
//! # use inflight_fuse::{abi::InitFlags, channel::*, mount::*, Wanted};
//! # fn serve(handler: std::sync::Arc<dyn Handler>, at: &std::path::Path) -> anyhow::Result<()> {
//! if uring::enable()? {
//!     println!("fuse-over-io_uring was off and is on now: {}", uring::PARAMETER);
//! }
//! let mounted = mount(at, &MountOptions::default())?;
//! // The rings come first: a kernel that was promised queues waits for them.
//! let prepared = uring::Prepared::new(&uring::Config::default())?;
//! let config = Config { max_write: prepared.payload(), ..Config::plain()? };
//! let channel = Channel::device(mounted.device, config)?;
//! let mut wanted = Wanted::default();
//! wanted.flags |= InitFlags::OVER_IO_URING;
//! let agreed = channel.handshake(&wanted)?;
//! match prepared.start(&channel, &agreed, handler) {
//!     Ok(uring) => uring.join(),
//!     Err(error) => println!("{error}; requests go by /dev/fuse"), // and receivers of `channel`
//! }
//! # Ok(())
//! # }
//! ```

mod compose;
mod entry;
mod flight;
mod plan;
mod queue;
mod shared;

pub use flight::Completion;
pub use plan::{Config, Plan, possible_cores};
pub use queue::Queue;
pub(super) use shared::RingRoute;

use super::{Channel, Handler, Receiver};
use crate::abi::InitFlags;
use crate::negotiate::Negotiated;
use crate::request::Operation;
use inflight_dio::{Pool, PoolConfig, Registration, SLAB};
use nix::errno::Errno;
use shared::{Note, Shared};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver as Orders, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// The module's parameter that allows the transport, "Y" or "N".
pub const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// Whether the kernel offers the transport; `None` when it does not know it.
pub fn is_enabled() -> Option<bool> {
    std::fs::read_to_string(PARAMETER).ok().map(|text| text.trim() == "Y")
}

/// Makes the kernel offer the transport to mounts that are made from now on. True when it did not
/// before: the setting is the whole machine's, so say so.
///
/// # Errors
/// ENOENT on a kernel that does not know it, EACCES without root.
pub fn enable() -> io::Result<bool> {
    if is_enabled() == Some(true) {
        return Ok(false);
    }
    // Not to be made: sysfs would answer EACCES where there is none.
    File::options().write(true).open(PARAMETER)?.write_all(b"Y")?;
    Ok(true)
}

/// Why requests will not come by io_uring. The connection works by the device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UringError {
    /// The queues' memory.
    #[error("no memory for the queues of fuse-over-io_uring: {0}")]
    Memory(#[source] io::Error),
    /// A ring or its thread. No OVER_IO_URING may be promised then.
    #[error("no ring for queue {queue} of fuse-over-io_uring: {source}")]
    Ring {
        /// The queue, which is the number of a core.
        queue: usize,
        /// io_uring_setup(2), io_uring_register(2), clone(2).
        source: io::Error,
    },
    /// The kernel did not agree upon it: see [`enable`].
    #[error("the kernel does not offer fuse-over-io_uring; {PARAMETER} must be Y before mounting")]
    NotOffered,
    /// A queue was refused. The kernel sends by the device from then on.
    #[error("queue {queue} of fuse-over-io_uring was refused: {errno}")]
    Register {
        /// The queue.
        queue: usize,
        /// `FUSE_IO_URING_CMD_REGISTER`.
        errno: Errno,
    },
}

/// What a queue's thread is told to do next.
enum Order {
    Register {
        device: OwnedFd,
        channel: Channel,
    },
    /// Have the kernel send by the device after all.
    Refuse {
        device: OwnedFd,
    },
    Run(Arc<dyn Handler>),
}

struct Worker {
    shared: Arc<Shared>,
    orders: Sender<Order>,
    done: Orders<Result<(), UringError>>,
    thread: JoinHandle<()>,
}

/// Rings, memory and threads, before INIT is answered.
pub struct Prepared {
    workers: Vec<Worker>,
    plan: Plan,
}

impl Prepared {
    /// Makes a ring and a thread for each possible core.
    ///
    /// # Errors
    /// [`UringError::Memory`], [`UringError::Ring`].
    pub fn new(config: &Config) -> Result<Prepared, UringError> {
        let plan = Plan::new(possible_cores(), config);
        let bytes = plan.queues * (plan.depth * plan.payload as usize + plan.header_bytes());
        let pool =
            PoolConfig { slabs: bytes.div_ceil(SLAB), registration: Registration::Off, huge: true };
        let pool = Pool::new(pool).map_err(|e| UringError::Memory(io::Error::other(e)))?;
        let mut workers = Vec::new();
        for queue in 0..plan.queues {
            let ring = |source| UringError::Ring { queue, source };
            let shared = Shared::new(queue as u16, &pool, &plan).map_err(ring)?;
            workers.push(Worker::spawn(shared, plan).map_err(ring)?);
        }
        for worker in &workers {
            worker.wait()?;
        }
        Ok(Prepared { workers, plan })
    }

    /// Largest WRITE and READ in bytes: what the channel's `max_write` must not exceed.
    pub fn payload(&self) -> u32 {
        self.plan.payload
    }

    /// What it is made of.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// Registers the queues of a connection whose INIT was answered, and serves them; and the
    /// device in a thread of its own.
    ///
    /// # Errors
    /// [`UringError::NotOffered`], [`UringError::Register`], [`UringError::Ring`]: nothing is
    /// served, and receivers of `channel` get every request.
    pub fn start(
        self,
        channel: &Channel,
        agreed: &Negotiated,
        handler: Arc<dyn Handler>,
    ) -> Result<Uring, UringError> {
        if !agreed.flags.contains(InitFlags::OVER_IO_URING) {
            self.workers.into_iter().for_each(Worker::dismiss);
            return Err(UringError::NotOffered);
        }
        let (go, gone) = std::sync::mpsc::channel();
        let all: Vec<_> = self.workers.iter().map(|worker| Arc::clone(&worker.shared)).collect();
        let (receiver, own) = (channel.receiver(), Arc::clone(&handler));
        // Before there is no way back.
        let device = std::thread::Builder::new().name("fuse-device".into()).spawn(move || {
            if gone.recv().is_ok() {
                serve_device(receiver, &*own, &all);
            }
        });
        let device = device.map_err(|source| UringError::Ring { queue: 0, source });
        let device = match device.and_then(|device| self.register(channel).map(|()| device)) {
            Ok(device) => device,
            Err(error) => {
                self.refuse(channel);
                self.workers.into_iter().for_each(Worker::dismiss);
                return Err(error);
            }
        };
        // A thread that is gone has no requests; nothing else ends one before this order.
        let _ = go.send(());
        for worker in &self.workers {
            let _ = worker.orders.send(Order::Run(Arc::clone(&handler)));
        }
        let unregistered = self.workers.iter().find_map(|w| w.shared.unregistered.get().copied());
        let mut threads: Vec<_> = self.workers.into_iter().map(|worker| worker.thread).collect();
        threads.push(device);
        Ok(Uring { threads, plan: self.plan, unregistered })
    }

    /// The kernel holds every request back until it has all queues or has refused one, so one is
    /// offered that it must refuse.
    fn refuse(&self, channel: &Channel) {
        for worker in &self.workers {
            let device = channel.fd().and_then(|fd| fd.try_clone_to_owned().ok());
            if let Some(device) = device
                && worker.orders.send(Order::Refuse { device }).is_ok()
            {
                let _ = worker.wait();
            }
        }
    }

    fn register(&self, channel: &Channel) -> Result<(), UringError> {
        for (queue, worker) in self.workers.iter().enumerate() {
            let ring = |source| UringError::Ring { queue, source };
            let fd = channel.fd().ok_or_else(|| ring(Errno::ENOTTY.into()))?;
            let device = fd.as_fd().try_clone_to_owned().map_err(ring)?;
            let order = Order::Register { device, channel: channel.clone() };
            worker.orders.send(order).map_err(|_| ring(Errno::ESRCH.into()))?;
        }
        // All of them, whatever the first says: a queue that is still at it must not be told to stop.
        let results: Vec<_> = self.workers.iter().map(Worker::wait).collect();
        results.into_iter().collect()
    }
}

impl Worker {
    fn spawn(shared: Arc<Shared>, plan: Plan) -> io::Result<Worker> {
        let (orders, theirs) = channel();
        let (told, done) = channel();
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("fuse-{}", shared.queue))
            .spawn(move || work(own, plan, &theirs, &told))?;
        Ok(Worker { shared, orders, done, thread })
    }

    fn wait(&self) -> Result<(), UringError> {
        let queue = self.shared.queue.into();
        let gone = UringError::Ring { queue, source: Errno::ESRCH.into() };
        self.done.recv().unwrap_or(Err(gone))
    }

    /// Without orders the thread ends, and its ring with it.
    fn dismiss(self) {
        drop(self.orders);
        let _ = self.thread.join();
    }
}

/// A queue's thread.
fn work(
    shared: Arc<Shared>,
    plan: Plan,
    orders: &Orders<Order>,
    told: &Sender<Result<(), UringError>>,
) {
    plan::bind(shared.queue.into());
    plan::weigh(plan.nice);
    let number = usize::from(shared.queue);
    let made = Queue::new(shared, &plan);
    let mut queue = match made {
        Ok(queue) => {
            let _ = told.send(Ok(()));
            queue
        }
        Err(source) => {
            let _ = told.send(Err(UringError::Ring { queue: number, source }));
            return;
        }
    };
    while let Ok(order) = orders.recv() {
        match order {
            Order::Register { .. } if plan.refused == Some(number) => {
                let refused = UringError::Register { queue: number, errno: Errno::EINVAL };
                let _ = told.send(Err(refused));
            }
            Order::Register { device, channel } => {
                let _ = told.send(queue.register(device, channel));
            }
            Order::Refuse { device } => {
                let _ = told.send(queue.refuse(&device));
            }
            Order::Run(handler) => return queue.run(&*handler),
        }
    }
}

/// How long the device is not looked at after a FORGET. Each unlink sends one; those that wait come
/// together (BATCH_FORGET), and only the first one wakes a thread.
const FORGETS_GATHER: Duration = Duration::from_millis(1);

/// Takes what comes by the device, and closes the queues when that ends.
fn serve_device(mut receiver: Receiver, handler: &dyn Handler, queues: &[Arc<Shared>]) {
    loop {
        match receiver.receive() {
            Ok(received) => {
                let operation = &received.request.operation;
                let gathers =
                    matches!(operation, Operation::Forget { .. } | Operation::BatchForget(_));
                // A panic is one request's, which its ticket answers; the queues need this thread.
                let call = || handler.request(received, None);
                let _ = catch_unwind(AssertUnwindSafe(call));
                if gathers {
                    std::thread::sleep(FORGETS_GATHER);
                }
            }
            Err(error) => {
                tracing::debug!("the device of the queues: {error}");
                break;
            }
        }
    }
    queues.iter().for_each(|shared| drop(shared.post(Note::Close)));
}

/// A connection that is served by queues.
#[derive(Debug)]
pub struct Uring {
    threads: Vec<JoinHandle<()>>,
    plan: Plan,
    unregistered: Option<Errno>,
}

impl Uring {
    /// What it is made of.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// Why the rings could not register the buffers (ENOMEM: RLIMIT_MEMLOCK is too small for
    /// them), if they could not: everything works, and each transfer pins its memory anew.
    pub fn unregistered(&self) -> Option<Errno> {
        self.unregistered
    }

    /// Waits for the end of the connection.
    ///
    /// # Panics
    /// When a queue's thread panicked; panics of the handler are caught.
    pub fn join(self) {
        for thread in self.threads {
            thread.join().expect("handlers' panics are caught");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::serve;
    use crate::mount::{Connection, MountOptions, mount, unmount};
    use crate::{Reply, Wanted};
    use std::sync::mpsc::channel as channel_of_one;

    struct Refusing;

    impl Handler for Refusing {
        fn request(&self, received: crate::channel::Received, queue: Option<&mut Queue>) {
            assert!(queue.is_none());
            let errno = match received.request.operation {
                Operation::Getattr { .. } => Errno::EXFULL,
                _ => Errno::ENOSYS,
            };
            let _ = received.ticket.reply(Reply::Error(errno));
        }
    }

    #[test]
    fn a_queue_that_fails_when_others_are_registered_leaves_all_to_the_device() {
        enable().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let device = mount(folder.path(), &MountOptions::default()).unwrap().device;
        let last = possible_cores() - 1;
        let config = Config { depth: 2, refused: Some(last), ..Config::default() };
        let prepared = Prepared::new(&config).unwrap();
        let config = crate::channel::Config::plain().unwrap();
        let config = crate::channel::Config { max_write: prepared.payload(), ..config };
        let channel = Channel::device(device, config).unwrap();
        let wanted = Wanted { flags: InitFlags::OVER_IO_URING, ..Wanted::default() };
        let agreed = channel.handshake(&wanted).unwrap();
        let error = prepared.start(&channel, &agreed, Arc::new(Refusing)).unwrap_err();
        let UringError::Register { queue, errno: Errno::EINVAL } = error else { panic!("{error}") };
        assert_eq!(queue, last);
        serves_by_the_device(folder.path(), &channel);
    }

    #[test]
    fn what_was_promised_and_cannot_be_kept_is_taken_back() {
        enable().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let device = mount(folder.path(), &MountOptions::default()).unwrap().device;
        let prepared = Prepared::new(&Config { depth: 2, ..Config::default() }).unwrap();
        let config = crate::channel::Config::plain().unwrap();
        let channel = Channel::device(device, config).unwrap();
        let wanted = Wanted { flags: InitFlags::OVER_IO_URING, ..Wanted::default() };
        channel.handshake(&wanted).unwrap();
        // As after a failure that the kernel has not seen: it holds requests back.
        prepared.refuse(&channel);
        serves_by_the_device(folder.path(), &channel);
    }

    /// A request gets its answer by the device, and the mount goes.
    fn serves_by_the_device(folder: &std::path::Path, channel: &Channel) {
        let receiver = channel.receiver();
        let served = std::thread::spawn(move || serve(receiver, &Refusing));
        let (path, connection) = (folder.to_owned(), Connection::of_mount(folder).unwrap());
        let (told, answer) = channel_of_one();
        let client = std::thread::spawn(move || told.send(std::fs::metadata(path).map(drop)));
        let found = answer.recv_timeout(Duration::from_secs(10));
        if found.is_err() {
            connection.abort().unwrap();
        }
        client.join().unwrap().unwrap();
        unmount(folder, true).unwrap();
        served.join().unwrap().unwrap();
        let found = found.expect("the kernel lets the request go");
        assert_eq!(found.unwrap_err().raw_os_error(), Some(libc::EXFULL));
    }
}
