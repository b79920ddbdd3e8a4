//! A kernel that the test plays, the proxy, and a server, each pair of them on a socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use inflight_fuse::abi::{self, InitFlags};
use inflight_fuse::channel::pair::{Answer, Kernel};
use inflight_fuse::channel::{Channel, Config, pair, serve};
use inflight_fuse::{
    Create, Dialect, Extensions, Header, Init, Name, Operation, Payload, Read, Request, Wanted,
    Write,
};
use inflight_gate::Client;
use inflight_gate::proxy::{Agreement, MESSAGE_EXTRA, Proxy};
use nix::errno::Errno;

use crate::memfs::MemFs;

/// Long enough for a busy machine; its end is a failure.
pub const BOUND: Duration = Duration::from_secs(20);

pub const MAX_WRITE: u32 = 256 << 10;

pub struct Bench {
    pub fs: Arc<MemFs>,
    pub proxy: Proxy,
    pub gate: Client,
    pub kernel: Kernel,
    pub server: Channel,
    /// The answer to INIT that the kernel got.
    pub agreed: Vec<u8>,
    /// What the server was offered and has.
    pub server_flags: InitFlags,
    pub agreement: Option<Agreement>,
    last: u64,
    early: Vec<Answer>,
    ended: Receiver<()>,
    _folder: tempfile::TempDir,
}

fn sockets() -> (std::os::fd::OwnedFd, Kernel) {
    let message_max = MAX_WRITE as usize + MESSAGE_EXTRA;
    let (theirs, ours) = pair::sockets(message_max).unwrap();
    (theirs, Kernel::new(ours, Config::plain().unwrap().pool, message_max))
}

impl Bench {
    pub fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let socket: PathBuf = folder.path().join("gate");
        let ((device, kernel), (server, link)) = (sockets(), sockets());
        let config = Config { max_write: MAX_WRITE, ..Config::plain().unwrap() };
        let device = Channel::pair(device, config);
        let proxy = Proxy::start(device, link, &socket, MAX_WRITE).unwrap();
        let all = Wanted::default().flags | InitFlags::MAX_PAGES | InitFlags::INIT_EXT;
        let flags = all | InitFlags::OVER_IO_URING | InitFlags::PASSTHROUGH;
        let init = Init { major: 7, minor: 45, max_readahead: 1 << 20, flags };
        send(&kernel, 2, request(0, Operation::Init(init)), Dialect::default());
        let server = Channel::pair(server, Config::plain().unwrap());
        let wanted = Wanted { flags, max_stack_depth: 1, ..Wanted::default() };
        let server_flags = server.handshake(&wanted).unwrap().flags;
        let agreed = kernel.receive().unwrap().unwrap().data().to_vec();
        let agreement = proxy.agreement(BOUND).unwrap();
        let fs = Arc::new(MemFs::new());
        let (end, ended) = channel();
        let (receiver, served) = (server.receiver(), Arc::clone(&fs));
        std::thread::spawn(move || {
            serve(receiver, &*served).expect("a connection ends by its end");
            let _ = end.send(());
        });
        let gate = Client::connect(&socket).unwrap();
        Bench {
            fs,
            proxy,
            gate,
            kernel,
            server,
            agreed,
            server_flags,
            agreement,
            last: 2,
            early: Vec::new(),
            ended,
            _folder: folder,
        }
    }

    /// Sends a request under the next number, which it gives.
    pub fn send(&mut self, request: Request) -> u64 {
        self.last += 2;
        self.send_as(self.last, request);
        self.last
    }

    pub fn send_as(&self, unique: u64, request: Request) {
        send(&self.kernel, unique, request, Dialect::new(self.server_flags));
    }

    /// The next message to the kernel.
    pub fn receive(&self) -> Answer {
        self.kernel.receive().unwrap().expect("the proxy is there")
    }

    /// The answer to a request; others may come before it.
    pub fn answer(&mut self, unique: u64) -> Result<Vec<u8>, Errno> {
        let found = self.early.iter().position(|answer| answer.header().unique == unique);
        let answer = match found {
            Some(at) => self.early.swap_remove(at),
            None => loop {
                let answer = self.receive();
                if answer.header().unique == unique {
                    break answer;
                }
                self.early.push(answer);
            },
        };
        answer.errno().map_or_else(|| Ok(answer.data().to_vec()), Err)
    }

    pub fn ask(&mut self, request: Request) -> Result<Vec<u8>, Errno> {
        let unique = self.send(request);
        self.answer(unique)
    }

    /// Creates a file in the root; gives its node.
    pub fn file(&mut self, name: &str, data: &[u8]) -> u64 {
        let entry = self.ask(request(abi::ROOT_ID, create(name))).unwrap();
        let node = u64::from_ne_bytes(entry[..8].try_into().unwrap());
        if !data.is_empty() {
            self.ask(request(node, write(0, data))).unwrap();
        }
        node
    }

    /// Ends the server's end of its socket.
    pub fn hang_up_server(&self) {
        use std::os::fd::AsRawFd as _;
        let fd = self.server.fd().expect("a socket").as_raw_fd();
        nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Both).unwrap();
    }

    /// Drops the proxy, which must end; gives what says that the server has.
    pub fn end(self) -> Receiver<()> {
        let Bench { proxy, ended, server, .. } = self;
        let (end, proxy_ended) = channel();
        std::thread::spawn(move || {
            drop(proxy);
            let _ = end.send(());
        });
        proxy_ended.recv_timeout(BOUND).expect("the proxy ends");
        drop(server);
        ended
    }
}

fn send(kernel: &Kernel, unique: u64, mut request: Request, dialect: Dialect) {
    request.header.unique = unique;
    let bytes = request.encode(dialect).unwrap();
    kernel.send(&[std::io::IoSlice::new(&bytes)]).unwrap();
}

pub fn request(nodeid: u64, operation: Operation) -> Request {
    Request { header: Header { nodeid, pid: 7, ..Header::default() }, operation }
}

pub fn read(offset: u64, size: u32) -> Operation {
    Operation::Read(Read { fh: 0, offset, size, lock_owner: None, flags: 0 })
}

pub fn write(offset: u64, data: &[u8]) -> Operation {
    let data = Payload::from(data);
    let write_flags = inflight_fuse::abi::WriteFlags::empty();
    Operation::Write(Write { fh: 0, offset, data, write_flags, lock_owner: None, flags: 0 })
}

pub fn create(name: &str) -> Operation {
    Operation::Create(Create {
        name: Name::new(name),
        flags: libc::O_RDWR as u32,
        mode: libc::S_IFREG | 0o644,
        umask: 0,
        kill_suidgid: false,
        extensions: Extensions::default(),
    })
}
