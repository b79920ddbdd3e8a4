//! A mount for a test, which is gone afterwards whatever happens.

use crate::memfs::MemFs;
use inflight_fuse::abi::InitFlags;
use inflight_fuse::channel::{Channel, Config, Handler, pair, serve, uring};
use inflight_fuse::mount::{Connection, MountOptions, mount, unmount};
use inflight_fuse::{Negotiated, Wanted};
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver as Ended, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes as _;

/// Longest that anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The way of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// /dev/fuse.
    Dev,
    /// /dev/fuse with receivers that spin.
    Spinning,
    /// Through a proxy and a socket.
    Pair,
    /// fuse-over-io_uring.
    Uring,
}

/// A mounted [`MemFs`] with its threads.
pub struct Mounted {
    pub fs: Arc<MemFs>,
    pub connection: Connection,
    pub agreed: Negotiated,
    /// The server's.
    pub channel: Channel,
    directory: tempfile::TempDir,
    threads: Vec<JoinHandle<()>>,
    ended: Ended<()>,
}

impl Mounted {
    pub fn new(transport: Transport) -> Mounted {
        if transport == Transport::Uring && uring::enable().expect("as root it can be set") {
            eprintln!("fuse-over-io_uring was off and is on from now on: {}", uring::PARAMETER);
        }
        let directory = tempfile::tempdir().expect("a folder");
        let options = MountOptions { subtype: Some("memfs".into()), ..MountOptions::default() };
        let mounted = mount(directory.path(), &options).expect("as root a mount works");
        let connection = Connection::of_mount(directory.path()).expect("it is mounted");
        let fs = Arc::new(MemFs::new());
        let mut threads = Threads::default();
        let (agreed, channel) = match transport {
            Transport::Uring => threads.by_uring(mounted.device, &fs),
            Transport::Pair => threads.by_pair(mounted.device, &fs),
            _ => {
                let spin = match transport {
                    Transport::Spinning => Duration::from_micros(50),
                    _ => Duration::ZERO,
                };
                let config = Config { spin, ..Config::plain().expect("memory") };
                let channel = Channel::device(mounted.device, config).expect("a device");
                threads.serve(&channel, &fs)
            }
        };
        let Threads { handles, ended, .. } = threads;
        Mounted { fs, connection, agreed, channel, directory, threads: handles, ended }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Unmounts and waits until every thread of the server has ended.
    pub fn finish(mut self) {
        // A process that another test starts has our descriptors until it executes its program.
        let begun = Instant::now();
        while let Err(error) = unmount(self.path(), false) {
            assert!(begun.elapsed() < PATIENCE, "{error}");
            std::thread::yield_now();
        }
        self.join();
    }

    /// Waits until every thread of the server has ended.
    pub fn join(&mut self) {
        for thread in self.threads.drain(..) {
            self.ended.recv_timeout(PATIENCE).expect("the server ends with its connection");
            thread.join().expect("the server does not panic");
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        // A test failed. Whoever waits for an answer gets an error, and nothing stays mounted.
        let _ = self.connection.abort();
        let _ = unmount(self.directory.path(), true);
    }
}

struct Threads {
    handles: Vec<JoinHandle<()>>,
    ended: Ended<()>,
    end: std::sync::mpsc::Sender<()>,
}

impl Default for Threads {
    fn default() -> Threads {
        let (end, ended) = channel();
        Threads { handles: Vec::new(), ended, end }
    }
}

/// Threads of a server that takes requests from one channel.
const RECEIVERS: usize = 2;

fn wanted() -> Wanted {
    let wanted = Wanted::default();
    let more = InitFlags::DO_READDIRPLUS | InitFlags::READDIRPLUS_AUTO | InitFlags::ATOMIC_O_TRUNC;
    Wanted { flags: wanted.flags | more, ..wanted }
}

impl Threads {
    fn spawn(&mut self, work: impl FnOnce() + Send + 'static) {
        let end = self.end.clone();
        self.handles.push(std::thread::spawn(move || {
            work();
            let _ = end.send(());
        }));
    }

    fn serve(&mut self, channel: &Channel, fs: &Arc<MemFs>) -> (Negotiated, Channel) {
        let agreed = channel.handshake(&wanted()).expect("INIT comes first");
        for _ in 0..RECEIVERS {
            let (receiver, fs) = (channel.receiver(), Arc::clone(fs));
            self.spawn(move || serve(receiver, &*fs).expect("a connection ends by its end"));
        }
        (agreed, channel.clone())
    }

    /// A proxy between the device and a server on a socket.
    fn by_pair(&mut self, device: OwnedFd, fs: &Arc<MemFs>) -> (Negotiated, Channel) {
        let config = Config::plain().expect("memory");
        let message_max = config.max_write as usize + 4096;
        let (theirs, ours) = pair::sockets(message_max).expect("sockets");
        let kernel = Arc::new(pair::Kernel::new(ours, config.pool.clone(), message_max));
        let device = Channel::device(device, config.clone()).expect("a device");
        {
            let (mut receiver, kernel) = (device.receiver(), Arc::clone(&kernel));
            self.spawn(move || {
                while let Ok(message) = receiver.receive_message() {
                    kernel.pass(&message).expect("the server is there");
                }
                kernel.close();
            });
        }
        self.spawn(move || {
            while let Ok(Some(answer)) = kernel.receive() {
                let header = answer.header();
                let pieces = [IoSlice::new(header.as_bytes()), IoSlice::new(answer.data())];
                // Interrupted, or unmounted.
                let _ = device.send_pieces(&pieces);
            }
        });
        self.serve(&Channel::pair(theirs, config), fs)
    }

    fn by_uring(&mut self, device: OwnedFd, fs: &Arc<MemFs>) -> (Negotiated, Channel) {
        let config = uring::Config { payload: 256 << 10, depth: 4, ..uring::Config::default() };
        let prepared = uring::Prepared::new(&config).expect("rings");
        let config = Config { max_write: prepared.payload(), ..Config::plain().expect("memory") };
        let channel = Channel::device(device, config).expect("a device");
        let mut wanted = wanted();
        wanted.flags |= InitFlags::OVER_IO_URING;
        let agreed = channel.handshake(&wanted).expect("INIT comes first");
        let handler: Arc<dyn Handler> = Arc::<MemFs>::clone(fs);
        let uring = prepared.start(&channel, &agreed, handler).expect("queues");
        self.spawn(move || uring.join());
        (agreed, channel)
    }
}
