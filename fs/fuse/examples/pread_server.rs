//! One file of the underlying filesystem, served by pread(2) and pwrite(2): what a channel costs
//! when the filesystem costs nothing. `pread_server FILE DIR [THREADS]` shows it as DIR/f.

use inflight_dio::Pool;
use inflight_fuse::channel::{Channel, Config, ReceiveError, Receiver};
use inflight_fuse::mount::{MountOptions, mount};
use inflight_fuse::{
    Attr, Data, Entry, FOREVER, Opened, Operation, Reply, Request, Wanted, abi::OpenFlags,
};
use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

struct Server {
    file: File,
    pool: Pool,
}

impl Server {
    fn attr(&self, nodeid: u64) -> io::Result<Attr> {
        let (mode, size) = match nodeid {
            2 => (libc::S_IFREG | 0o666, self.file.metadata()?.size()),
            _ => (libc::S_IFDIR | 0o755, 0),
        };
        Ok(Attr { ino: nodeid, mode, size, nlink: 1, blocks: size / 512, ..Attr::default() })
    }

    fn answer(&self, request: &Request) -> io::Result<Reply> {
        let nodeid = request.header.nodeid;
        Ok(match &request.operation {
            Operation::Lookup { name } if name.as_bytes() == b"f" => Reply::Entry(Entry {
                nodeid: 2,
                entry_valid: FOREVER,
                attr_valid: FOREVER,
                attr: self.attr(2)?,
                ..Entry::default()
            }),
            Operation::Lookup { .. } => Reply::Error(Errno::ENOENT),
            Operation::Getattr { .. } => Reply::Attr { attr: self.attr(nodeid)?, valid: FOREVER },
            Operation::Setattr(setattr) => {
                setattr.size.map(|size| self.file.set_len(size)).transpose()?;
                Reply::Attr { attr: self.attr(nodeid)?, valid: FOREVER }
            }
            Operation::Open(_) | Operation::Opendir(_) => {
                Reply::Opened(Opened { flags: OpenFlags::KEEP_CACHE, ..Opened::default() })
            }
            Operation::Read(read) => {
                let mut buffer = self.pool.take(read.size as usize);
                let count = self.file.read_at(buffer.as_mut_slice(), read.offset)?;
                buffer.truncate(count);
                Reply::Data(Data::from(buffer))
            }
            Operation::Write(write) => {
                self.file.write_all_at(write.data.as_slice(), write.offset)?;
                Reply::Written(write.data.len() as u32)
            }
            Operation::Fsync(_) => {
                self.file.sync_data()?;
                Reply::Empty
            }
            Operation::Release(_) | Operation::Releasedir(_) => Reply::Empty,
            _ => Reply::Error(Errno::ENOSYS),
        })
    }

    fn serve(&self, mut receiver: Receiver) -> Result<(), ReceiveError> {
        loop {
            let received = receiver.receive()?;
            let reply = self.answer(&received.request).unwrap_or_else(|error| {
                Reply::Error(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
            });
            let _ = received.ticket.reply(reply);
        }
    }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: pread_server FILE DIRECTORY [THREADS]";
    let (file, directory) = (arguments.next().expect(usage), arguments.next().expect(usage));
    let threads = arguments.next().map_or(Ok(2), |threads| threads.parse::<usize>())?;
    let config = Config::plain()?;
    let file = File::options().read(true).write(true).open(file)?;
    let server = Server { file, pool: config.pool.clone() };
    let mounted = mount(Path::new(&directory), &MountOptions::default())?;
    let channel = Channel::device(mounted.device, config)?;
    channel.handshake(&Wanted::default())?;
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| server.serve(channel.receiver()));
        }
    });
    Ok(())
}
