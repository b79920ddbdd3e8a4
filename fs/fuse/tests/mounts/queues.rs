//! What only fuse-over-io_uring has.

use crate::mounted::PATIENCE;
use inflight_fuse::abi::{InitFlags, OpenFlags};
use inflight_fuse::channel::uring::{self, Completion, Prepared, Queue, UringError};
use inflight_fuse::channel::{Channel, Config, Handler, Received, SendError, Ticket, serve};
use inflight_fuse::mount::{Connection, MountOptions, mount, unmount};
use inflight_fuse::{Attr, Data, Entry, Notification, Opened, Operation, Reply, Request, Wanted};
use nix::errno::Errno;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is done with a READ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Read from a file by the queue's ring.
    Ring,
    /// Put aside.
    Park,
    /// The handler panics.
    Panic,
    /// The ticket is dropped.
    Forget,
}

/// A server of one file, `f`.
struct OneFile {
    mode: Mode,
    file: Arc<File>,
    size: u64,
    tickets: Mutex<HashMap<u64, Ticket>>,
    changed: Condvar,
    by_queue: AtomicU64,
    by_device: Mutex<Vec<inflight_fuse::abi::Opcode>>,
}

impl OneFile {
    fn new(mode: Mode) -> Arc<OneFile> {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..1_u32 << 20).flat_map(|word| word.to_ne_bytes()).collect();
        file.write_all_at(&bytes, 0).unwrap();
        Arc::new(OneFile {
            mode,
            file: Arc::new(file),
            size: bytes.len() as u64,
            tickets: Mutex::default(),
            changed: Condvar::new(),
            by_queue: AtomicU64::new(0),
            by_device: Mutex::default(),
        })
    }

    fn attr(&self, nodeid: u64) -> Attr {
        match nodeid {
            2 => Attr { ino: 2, mode: libc::S_IFREG | 0o666, size: self.size, ..Attr::default() },
            _ => Attr { ino: 1, mode: libc::S_IFDIR | 0o755, ..Attr::default() },
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        let attr = self.attr(request.header.nodeid);
        match &request.operation {
            Operation::Lookup { .. } => {
                Reply::Entry(Entry { nodeid: 2, attr: self.attr(2), ..Entry::default() })
            }
            Operation::Getattr { .. } => Reply::Attr { attr, valid: Duration::ZERO },
            Operation::Open(_) => {
                let flags = OpenFlags::DIRECT_IO;
                Reply::Opened(Opened { flags, ..Opened::default() })
            }
            Operation::Flush(_) | Operation::Release(_) => Reply::Empty,
            _ => Reply::Error(Errno::ENOSYS),
        }
    }

    fn wait_for(&self, tickets: usize) {
        let mut list = self.tickets.lock();
        let too_few = |list: &mut HashMap<u64, Ticket>| list.len() < tickets;
        self.changed.wait_while_for(&mut list, too_few, PATIENCE);
        assert!(list.len() >= tickets, "{} of {tickets} are put aside", list.len());
    }
}

impl Handler for OneFile {
    fn request(&self, received: Received, queue: Option<&mut Queue>) {
        let Received { request, mut ticket } = received;
        match queue.is_some() {
            true => {
                self.by_queue.fetch_add(1, Ordering::Relaxed);
            }
            false => self.by_device.lock().push(request.opcode()),
        }
        if self.mode == Mode::Panic && !request.opcode().wants_answer() {
            panic!("on purpose, in the thread of the device");
        }
        let Operation::Read(read) = &request.operation else {
            let _ = ticket.reply(self.answer(&request));
            return;
        };
        match (self.mode, queue) {
            (Mode::Panic, _) => panic!("on purpose"),
            (Mode::Forget, _) => {}
            (Mode::Ring, Some(queue)) => {
                let mut buffer = ticket.buffer().expect("a READ has memory to read into");
                assert!(queue.fixed_index(&buffer).is_some());
                let rest = self.size.saturating_sub(read.offset).min(read.size.into());
                buffer.set_len(rest as usize);
                let unique = ticket.unique();
                self.tickets.lock().insert(unique, ticket);
                queue.read_at(&self.file, buffer, read.offset, unique).expect("there is room");
            }
            _ => {
                self.tickets.lock().insert(ticket.unique(), ticket);
                self.changed.notify_all();
            }
        }
    }

    fn completed(&self, completion: Completion, _queue: &mut Queue) {
        let ticket = self.tickets.lock().remove(&completion.token).expect("its ticket");
        let reply = match (completion.result, completion.buffer) {
            (Ok(_), Some(buffer)) => Reply::Data(Data::from(buffer)),
            _ => Reply::Error(Errno::EIO),
        };
        ticket.reply(reply).unwrap();
    }
}

/// Mounts, serves by queues with `config` and unmounts after `client`.
fn with_queues(
    server: &Arc<OneFile>,
    config: &uring::Config,
    client: impl FnOnce(&Path, &Connection, &Channel),
) {
    uring::enable().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mounted = mount(folder.path(), &MountOptions::default()).unwrap();
    let connection = Connection::of_mount(folder.path()).unwrap();
    let prepared = Prepared::new(config).unwrap();
    let channel_config = Config { max_write: prepared.payload(), ..Config::plain().unwrap() };
    let channel = Channel::device(mounted.device, channel_config).unwrap();
    let agreed = channel.handshake(&wanted()).unwrap();
    let handler: Arc<dyn Handler> = Arc::<OneFile>::clone(server);
    let uring = prepared.start(&channel, &agreed, handler).unwrap();
    let guard = Guard { path: folder.path(), connection };
    client(folder.path(), &connection, &channel);
    drop(channel);
    drop(guard);
    let begun = Instant::now();
    let joined = std::thread::spawn(move || uring.join());
    while !joined.is_finished() {
        assert!(begun.elapsed() < PATIENCE, "the queues end with their connection");
        std::thread::yield_now();
    }
    joined.join().unwrap();
}

/// Nothing stays mounted, and nobody waits for an answer.
struct Guard<'a> {
    path: &'a Path,
    connection: Connection,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.path, true);
        if std::thread::panicking() {
            let _ = self.connection.abort();
        }
    }
}

fn wanted() -> Wanted {
    let wanted = Wanted::default();
    Wanted { flags: wanted.flags | InitFlags::OVER_IO_URING, ..wanted }
}

fn small() -> uring::Config {
    uring::Config { payload: 64 << 10, depth: 2, ..uring::Config::default() }
}

fn read(folder: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; 100_000];
    let count = File::open(folder.join("f"))?.read_at(&mut bytes, 4096)?;
    bytes.truncate(count);
    Ok(bytes)
}

#[test]
fn files_are_read_by_the_same_ring() {
    let server = OneFile::new(Mode::Ring);
    with_queues(&server, &small(), |folder, _, _| {
        let mut right = vec![0; 100_000];
        server.file.read_exact_at(&mut right, 4096).unwrap();
        for _ in 0..20 {
            assert!(read(folder).unwrap() == right);
        }
    });
    assert!(server.by_queue.load(Ordering::Relaxed) >= 20 * 3, "LOOKUP, OPEN, READ");
    let by_device = server.by_device.lock();
    assert!(by_device.iter().all(|opcode| !opcode.wants_answer()), "{by_device:?}");
}

#[test]
fn a_handler_that_panics_or_forgets_answers_eio() {
    for mode in [Mode::Panic, Mode::Forget] {
        with_queues(&OneFile::new(mode), &small(), |folder, _, _| {
            for _ in 0..5 {
                assert_eq!(read(folder).unwrap_err().raw_os_error(), Some(libc::EIO));
            }
        });
    }
}

#[test]
fn a_panic_in_the_thread_of_the_device_is_one_requests() {
    let server = OneFile::new(Mode::Panic);
    with_queues(&server, &small(), |folder, _, channel| {
        for round in 0..3 {
            assert_eq!(read(folder).unwrap_err().raw_os_error(), Some(libc::EIO));
            let gone = Notification::InvalEntry { parent: 1, name: b"f", expire_only: false };
            channel.notify(&gone).unwrap();
            // The inode that nobody has is forgotten, and FORGET comes by the device.
            let begun = Instant::now();
            while server.by_device.lock().len() <= round {
                assert!(begun.elapsed() < PATIENCE, "FORGET {round} comes");
                std::thread::yield_now();
            }
        }
    });
}

#[test]
fn more_wait_than_there_are_entries_and_all_are_answered() {
    let server = OneFile::new(Mode::Park);
    let entries = uring::possible_cores() * 2;
    with_queues(&server, &small(), |folder, _, _| {
        std::thread::scope(|scope| {
            let file = Arc::new(File::open(folder.join("f")).unwrap());
            let clients: Vec<_> = (0..entries * 3)
                .map(|_| Arc::clone(&file))
                .map(|file| scope.spawn(move || file.read_at(&mut [0; 512], 0)))
                .collect();
            for _ in 0..clients.len() {
                server.wait_for(1);
                let unique = *server.tickets.lock().keys().next().unwrap();
                let ticket = server.tickets.lock().remove(&unique).unwrap();
                assert!(ticket.places_left().is_some_and(|places| places < 2));
                ticket.reply(Reply::Data(vec![5; 512].into())).unwrap();
            }
            assert!(clients.into_iter().all(|client| client.join().unwrap().unwrap() == 512));
        });
    });
}

#[test]
fn an_abort_while_every_entry_is_parked_ends_the_queues() {
    let server = OneFile::new(Mode::Park);
    with_queues(&server, &small(), |folder, connection, _| {
        let file = Arc::new(File::open(folder.join("f")).unwrap());
        std::thread::scope(|scope| {
            // As many as fit one queue, whichever cores they run on.
            let clients: Vec<_> = (0..4)
                .map(|_| Arc::clone(&file))
                .map(|file| scope.spawn(move || file.read_at(&mut [0; 512], 0)))
                .collect();
            server.wait_for(2);
            connection.abort().unwrap();
            for client in clients {
                let error = client.join().unwrap().unwrap_err();
                // The second is for those who came after the abort.
                let errno = error.raw_os_error();
                assert!(matches!(errno, Some(libc::ECONNABORTED | libc::ENOTCONN)), "{error}");
            }
        });
    });
    // The queues are over; nobody is harmed by late answers, and they say so.
    for (_, ticket) in server.tickets.lock().drain() {
        let sent = ticket.reply(Reply::Data(vec![5; 512].into()));
        assert!(matches!(sent, Err(SendError::Disconnected)), "{sent:?}");
    }
}

#[test]
fn a_refused_queue_is_an_error_and_the_device_serves() {
    uring::enable().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mounted = mount(folder.path(), &MountOptions::default()).unwrap();
    let prepared = Prepared::new(&small()).unwrap();
    // More is agreed upon than the queues have room for.
    let channel = Channel::device(mounted.device, Config::plain().unwrap()).unwrap();
    let agreed = channel.handshake(&wanted()).unwrap();
    let server = OneFile::new(Mode::Forget);
    let handler: Arc<dyn Handler> = Arc::<OneFile>::clone(&server);
    let error = prepared.start(&channel, &agreed, handler).unwrap_err();
    assert!(matches!(error, UringError::Register { errno: Errno::EINVAL, .. }), "{error}");
    let receiver = channel.receiver();
    let serving = Arc::clone(&server);
    let served = std::thread::spawn(move || serve(receiver, &*serving));
    let found = std::fs::metadata(folder.path().join("f")).map(|found| found.len());
    unmount(folder.path(), true).unwrap();
    served.join().unwrap().unwrap();
    assert_eq!(found.unwrap(), server.size);
    assert_eq!(server.by_queue.load(Ordering::Relaxed), 0);
}

#[test]
fn what_was_not_agreed_upon_is_not_offered() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = mount(folder.path(), &MountOptions::default()).unwrap();
    let prepared = Prepared::new(&small()).unwrap();
    let channel = Channel::device(mounted.device, Config::plain().unwrap()).unwrap();
    let agreed = channel.handshake(&Wanted::default()).unwrap();
    let handler: Arc<dyn Handler> = OneFile::new(Mode::Forget);
    let error = prepared.start(&channel, &agreed, handler).unwrap_err();
    unmount(folder.path(), false).unwrap();
    assert!(matches!(error, UringError::NotOffered), "{error}");
}
