//! The start and the end of a connection.

use inflight_fuse::channel::{Channel, Config, ReceiveError, SendError, memory};
use inflight_fuse::mount::{MountOptions, mount, unmount};
use inflight_fuse::{
    Attr, Data, Dialect, Entry, Header, Init, Notification, Opened, Operation, Reply, Request,
    Wanted, abi,
};
use inflight_splice::PipePool;
use nix::errno::Errno;
use std::io::Read as _;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

fn init(major: u32) -> Request {
    let flags = abi::InitFlags::SETXATTR_EXT;
    let operation = Operation::Init(Init { major, minor: 45, max_readahead: 4096, flags });
    Request { header: Header { unique: 2, ..Header::default() }, operation }
}

fn statfs(unique: u64) -> Request {
    let header = Header { unique, nodeid: 1, ..Header::default() };
    Request { header, operation: Operation::Statfs }
}

#[path = "../../examples/hello.rs"]
#[allow(dead_code, reason = "its main is not run")]
mod hello;

#[test]
fn the_example_serves_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let server = std::thread::spawn(move || hello::serve(&path));
    let begun = Instant::now();
    // Mounted: the file is there.
    while !folder.path().join("hello").exists() {
        assert!(begun.elapsed() < SOON && !server.is_finished());
        std::thread::yield_now();
    }
    let text = std::fs::read_to_string(folder.path().join("hello"));
    // An entry keeps its directory open.
    let names = std::fs::read_dir(folder.path()).map(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Vec<_>>()
    });
    unmount(folder.path(), true).unwrap();
    server.join().unwrap().unwrap();
    assert_eq!(text.unwrap(), "Hello, world.\n");
    let names = names.unwrap().into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(names, ["hello"]);
}

#[test]
fn a_later_kernel_is_told_our_version_and_asks_again() {
    let (channel, kernel) = memory::connect(Config::plain().unwrap());
    kernel.send(&init(8), Dialect::default());
    kernel.send(&init(7), Dialect::default());
    let agreed = channel.handshake(&Wanted::default()).unwrap();
    assert!(channel.dialect().setxattr_ext);
    assert_eq!(agreed.minor, 45);
    let (first, out) = kernel.answer(SOON).unwrap();
    assert_eq!((first.error, &out[..4]), (0, &7_u32.to_ne_bytes()[..]));
    let (second, out) = kernel.answer(SOON).unwrap();
    assert_eq!((second.unique, out.len()), (2, size_of::<abi::InitOut>()));
}

#[test]
fn what_is_malformed_gets_eio_and_the_next_is_served() {
    let (channel, kernel) = memory::connect(Config::plain().unwrap());
    let mut bytes = statfs(4).encode(Dialect::default()).unwrap();
    bytes.push(1);
    kernel.send_bytes(bytes);
    kernel.send(&statfs(6), Dialect::default());
    let received = channel.receiver().receive().unwrap();
    assert_eq!(received.ticket.unique(), 6);
    let (header, _) = kernel.answer(SOON).unwrap();
    assert_eq!((header.unique, header.error), (4, -libc::EIO));
    drop(received);
    let (header, _) = kernel.answer(SOON).unwrap();
    assert_eq!((header.unique, header.error), (6, -libc::EIO), "a forgotten ticket answers");
}

#[test]
fn an_abandoned_ticket_answers_nothing() {
    let (channel, kernel) = memory::connect(Config::plain().unwrap());
    kernel.send(&statfs(6), Dialect::default());
    channel.receiver().receive().unwrap().ticket.abandon();
    assert!(kernel.answer(Duration::ZERO).is_none());
}

#[test]
fn a_proxy_answers_what_it_does_not_pass_on() {
    let (channel, kernel) = memory::connect(Config::plain().unwrap());
    kernel.send(&statfs(6), Dialect::default());
    let message = channel.receiver().receive_message().unwrap();
    let header = message.header().unwrap();
    assert_eq!(message.peek(Dialect::default()).unwrap(), statfs(6));
    let ticket = channel.ticket(header.unique, abi::Opcode(header.opcode));
    ticket.reply(Reply::Error(Errno::EIO)).unwrap();
    let (header, _) = kernel.answer(SOON).unwrap();
    assert_eq!((header.unique, header.error), (6, -libc::EIO));
}

#[test]
fn errors_of_the_device_are_told_apart() {
    let (channel, kernel) = memory::connect(Config::plain().unwrap());
    let mut receiver = channel.receiver();
    kernel.fail_receive(Errno::ENOENT);
    kernel.fail_receive(Errno::EINTR);
    kernel.fail_receive(Errno::EAGAIN);
    assert!(matches!(receiver.receive(), Err(ReceiveError::WouldBlock)));
    kernel.fail_receive(Errno::ECONNABORTED);
    assert!(matches!(receiver.receive(), Err(ReceiveError::Aborted)));
    kernel.fail_receive(Errno::ENOMEM);
    assert!(matches!(receiver.receive(), Err(ReceiveError::Io(_))));
    kernel.close();
    assert!(matches!(receiver.receive(), Err(ReceiveError::Closed)));
    for (errno, is_gone) in [(Errno::ENOENT, true), (Errno::ENODEV, false)] {
        kernel.refuse_answer(errno);
        match channel.notify(&Notification::IncEpoch).unwrap_err() {
            SendError::Gone => assert!(is_gone),
            SendError::Disconnected => assert!(!is_gone),
            other => panic!("{other}"),
        }
    }
}

/// Answers a READ of the one file with 5000 spliced zeroes.
fn splicing(channel: &Channel, request: &Request) -> Result<Reply, Errno> {
    let file = Attr { ino: 2, mode: libc::S_IFREG | 0o644, size: 8192, ..Attr::default() };
    let root = Attr { ino: 1, mode: libc::S_IFDIR | 0o755, ..Attr::default() };
    let attr = if request.header.nodeid == 2 { file } else { root };
    Ok(match &request.operation {
        Operation::Lookup { .. } => {
            Reply::Entry(Entry { nodeid: 2, attr: file, ..Entry::default() })
        }
        Operation::Getattr { .. } => Reply::Attr { attr, valid: Duration::ZERO },
        Operation::Open(_) => {
            let flags = abi::OpenFlags::DIRECT_IO;
            Reply::Opened(Opened { flags, ..Opened::default() })
        }
        Operation::Read(_) => {
            let mut fill = channel.begin(8192).map_err(|_| Errno::EIO)?;
            fill.zeros(8192).map_err(|_| Errno::EIO)?;
            let mut data = Data::Piped(fill.finish().map_err(|_| Errno::EIO)?);
            data.truncate(5000);
            Reply::Data(data)
        }
        Operation::Flush(_) | Operation::Release(_) => Reply::Empty,
        _ => return Err(Errno::ENOSYS),
    })
}

#[test]
fn a_spliced_answer_arrives_cut_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = mount(folder.path(), &MountOptions::default()).unwrap();
    let pipes = PipePool::new(1 << 20, 2).unwrap();
    let config = Config { pipes: Some(pipes.clone()), ..Config::plain().unwrap() };
    let channel = Channel::device(mounted.device, config).unwrap();
    assert!(channel.caps().splice);
    channel.handshake(&Wanted::default()).unwrap();
    let server = std::thread::spawn(move || {
        let mut receiver = channel.receiver();
        while let Ok(received) = receiver.receive() {
            let reply = splicing(&channel, &received.request).unwrap_or_else(Reply::Error);
            match received.ticket.reply(reply) {
                // The unmount ends the connection before the RELEASE is answered, for which nobody waits.
                Ok(()) | Err(SendError::Gone) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    let read = std::fs::File::open(folder.path().join("f")).and_then(|mut file| {
        let mut bytes = vec![1; 8192];
        let count = file.read(&mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    });
    unmount(folder.path(), true).unwrap();
    server.join().unwrap();
    assert!(read.unwrap() == [0; 5000]);
    assert!(pipes.report().discarded >= 1, "the pipe that kept the rest is not used again");
}

#[test]
fn what_cannot_be_spliced_is_copied() {
    let (channel, kernel) = memory::connect(Config::plain().unwrap());
    kernel.send(&statfs(6), Dialect::default());
    let received = channel.receiver().receive().unwrap();
    assert!(channel.begin(1).is_err());
    let mut fill = PipePool::new(1 << 16, 2).unwrap().begin(4096).unwrap();
    fill.zeros(4096).unwrap();
    received.ticket.reply(Reply::Data(Data::Piped(fill.finish().unwrap()))).unwrap();
    assert_eq!(kernel.answer(SOON).unwrap().1, [0; 4096]);
}
