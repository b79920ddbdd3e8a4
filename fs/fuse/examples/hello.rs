//! A filesystem of one file. `hello DIR` mounts it and serves until `umount DIR`.

use inflight_fuse::channel::{Channel, Config, ReceiveError, Received};
use inflight_fuse::mount::{MountOptions, mount};
use inflight_fuse::{
    Attr, Data, DirEntry, Directory, Entry, FOREVER, Opened, Operation, Reply, Wanted,
};
use nix::errno::Errno;
use std::path::Path;

const TEXT: &[u8] = b"Hello, world.\n";
const FILE: u64 = 2;

fn attr(nodeid: u64) -> Attr {
    let directory = Attr { ino: 1, mode: libc::S_IFDIR | 0o755, nlink: 2, ..Attr::default() };
    match nodeid {
        FILE => Attr {
            ino: FILE,
            mode: libc::S_IFREG | 0o444,
            nlink: 1,
            size: TEXT.len() as u64,
            ..directory
        },
        _ => directory,
    }
}

fn answer(nodeid: u64, operation: &Operation) -> Reply {
    match operation {
        Operation::Lookup { name } if name.as_bytes() == b"hello" => Reply::Entry(Entry {
            nodeid: FILE,
            entry_valid: FOREVER,
            attr_valid: FOREVER,
            attr: attr(FILE),
            ..Entry::default()
        }),
        Operation::Lookup { .. } => Reply::Error(Errno::ENOENT),
        Operation::Getattr { .. } => Reply::Attr { attr: attr(nodeid), valid: FOREVER },
        Operation::Open(_) | Operation::Opendir(_) => Reply::Opened(Opened::default()),
        Operation::Read(read) => {
            let rest = TEXT.get(read.offset as usize..).unwrap_or_default();
            Reply::Data(Data::Static(&rest[..rest.len().min(read.size as usize)]))
        }
        Operation::Readdir(read) => {
            let mut directory = Directory::new(read.size);
            let entry = DirEntry { ino: FILE, next: 1, kind: libc::DT_REG, name: b"hello" };
            let _ = read.offset == 0 && directory.add(&entry);
            directory.into()
        }
        Operation::Flush(_) | Operation::Release(_) | Operation::Releasedir(_) => Reply::Empty,
        _ => Reply::Error(Errno::ENOSYS),
    }
}

/// Mounts on `directory` and serves until it is unmounted.
pub fn serve(directory: &Path) -> anyhow::Result<()> {
    let options = MountOptions { subtype: Some("hello".into()), ..MountOptions::default() };
    let channel = Channel::device(mount(directory, &options)?.device, Config::plain()?)?;
    channel.handshake(&Wanted::default())?;
    let mut receiver = channel.receiver();
    loop {
        match receiver.receive() {
            Ok(Received { request, ticket }) => {
                // An error here is one request's, which was interrupted.
                let _ = ticket.reply(answer(request.header.nodeid, &request.operation));
            }
            Err(ReceiveError::Closed | ReceiveError::Aborted) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn main() -> anyhow::Result<()> {
    serve(Path::new(&std::env::args().nth(1).expect("usage: hello DIRECTORY")))
}
