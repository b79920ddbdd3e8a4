//! A read that the disk is slow with leaves the core's queue to others: a server on a slow disk, mounted over io_uring.

mod common;
mod held_disk;

use held_disk::{Held, HeldDisk};
use inflight::disk::{Disk, MemoryDisk};
use inflight::image::mkfs;
use inflight::mounted;
use inflight::ops::{Caller, Fs, Make, WriteArgs};
use inflight::options::Options;
use inflight::serve::Server;
use inflight::serve::server::Front;
use inflight_fuse::Wanted;
use inflight_fuse::abi::InitFlags;
use inflight_fuse::channel::uring::{self, Prepared, Uring};
use inflight_fuse::channel::{Channel, Config};
use inflight_fuse::mount::{Connection, MountOptions, mount, unmount};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
const BLOCK: usize = 4096;
/// What the slow piece is full of.
const SLOW: u8 = 0x53;

fn filesystem(disk: &Arc<HeldDisk>) -> Fs {
    let own: Arc<dyn Disk> = Arc::<HeldDisk>::clone(disk);
    let blocks = own.len().expect("a length") / BLOCK as u64;
    mkfs::format(&own, &mkfs::MkfsOptions::default(), blocks).expect("mkfs");
    let options = Options { slabs: 1, default_permissions: false, ..Options::default() };
    mounted::open_on(own, &options).expect("open")
}

/// A file of three pieces: a block, a hole, and a block that is slow to come.
fn make(fs: &Fs, name: &[u8]) {
    let (mode, target, security) = (libc::S_IFREG | 0o644, None, &[][..]);
    let caller = Caller { uid: 0, gid: 0, pid: 1 };
    let make = Make { caller, parent: 1, name, mode, umask: 0, rdev: 0, target, security };
    let ino = fs.make(&make).expect("make").ino;
    for (block, byte) in [(0, 1), (2, SLOW)] {
        let (direct, append, cached, kill_suidgid) = (false, false, false, false);
        let offset = block * BLOCK as u64;
        let args = WriteArgs { ino, offset, direct, append, cached, kill_suidgid };
        fs.write(&args, &[byte; BLOCK]).expect("write");
    }
}

/// A mount that is served by queues of this process.
struct Served {
    dir: tempfile::TempDir,
    queues: Option<Uring>,
    server: Arc<Server>,
}

impl Served {
    fn new(fs: Fs) -> Served {
        uring::enable().expect("fuse-over-io_uring");
        let dir = tempfile::tempdir().expect("a folder");
        let server = Server::new(Arc::new(fs), None);
        let device = mount(dir.path(), &MountOptions::default()).expect("mount").device;
        let prepared = Prepared::new(&uring::Config { depth: 4, ..uring::Config::default() });
        let prepared = prepared.expect("queues");
        let config = Config { max_write: prepared.payload(), ..Config::plain().expect("memory") };
        let channel = Channel::device(device, config).expect("a channel");
        let flags = InitFlags::OVER_IO_URING
            | InitFlags::NO_OPEN_SUPPORT
            | InitFlags::NO_OPENDIR_SUPPORT
            | InitFlags::ASYNC_READ;
        let agreed = channel.handshake(&Wanted { flags, ..Wanted::default() }).expect("INIT");
        let front = Arc::new(Front(Arc::clone(&server)));
        let queues = Some(prepared.start(&channel, &agreed, front).expect("queues"));
        Served { dir, queues, server }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let connection = Connection::of_mount(self.dir.path());
        let unmounted = unmount(self.dir.path(), true);
        if std::thread::panicking() || unmounted.is_err() {
            let _ = connection.and_then(|connection| connection.abort());
        }
        if let Some(queues) = self.queues.take() {
            queues.join();
        }
        self.server.finish();
    }
}

/// What makes requests to the first core's queue.
fn on_the_first_core<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> mpsc::Receiver<T> {
    let (told, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut first = CpuSet::new();
        first.set(0).expect("there is one");
        sched_setaffinity(Pid::from_raw(0), &first).expect("bind");
        let _ = told.send(run());
    });
    heard
}

#[test]
fn a_piece_that_is_slow_to_come_holds_nobody_else_up() {
    if !common::can_mount() {
        return;
    }
    let disk = Arc::new(HeldDisk::new(MemoryDisk::new(64 << 20), Held::ReadsOf(SLOW)));
    let fs = filesystem(&disk);
    make(&fs, b"f");
    let served = Served::new(fs);
    let dir = served.dir.path().to_owned();
    disk.hold(true);
    let path = dir.join("f");
    let read = on_the_first_core(move || {
        let mut bytes = vec![7; 3 * BLOCK];
        std::fs::File::open(path).and_then(|file| file.read_exact_at(&mut bytes, 0)).map(|()| bytes)
    });
    disk.await_call();
    let looked = on_the_first_core(move || std::fs::metadata(dir.join("none")).is_err());
    let found = looked.recv_timeout(PATIENCE);
    disk.hold(false);
    assert_eq!(found, Ok(true), "a lookup waits for another one's read");
    let bytes = read.recv_timeout(PATIENCE).expect("an end").expect("read");
    let wanted = [[1; BLOCK], [0; BLOCK], [SLOW; BLOCK]].concat();
    assert!(bytes == wanted, "the pieces are not what they were");
    drop(served);
}
