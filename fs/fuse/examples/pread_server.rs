//! One file of the underlying filesystem, served by pread(2) and pwrite(2): what a channel costs
//! when the filesystem costs nothing. `pread_server FILE DIR [dev|spin|uring] [THREADS]` shows it
//! as DIR/f until `umount DIR`.

use anyhow::{Context as _, bail};
use inflight_dio::Pool;
use inflight_fuse::channel::uring::{self, Prepared, Queue};
use inflight_fuse::channel::{Channel, Config, Handler, Received, Ticket, serve};
use inflight_fuse::mount::{MountOptions, mount};
use inflight_fuse::{
    Attr, Data, Entry, FOREVER, Opened, Operation, Reply, Request, Wanted,
    abi::{InitFlags, OpenFlags},
};
use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

struct Server {
    file: File,
    pool: Pool,
}

impl Handler for Server {
    fn request(&self, received: Received, _queue: Option<&mut Queue>) {
        let Received { request, mut ticket } = received;
        let reply = self.answer(&request, &mut ticket).unwrap_or_else(|error| {
            Reply::Error(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
        });
        drop(request);
        let _ = ticket.reply(reply);
    }
}

impl Server {
    fn attr(&self, nodeid: u64) -> io::Result<Attr> {
        let (mode, size) = match nodeid {
            2 => (libc::S_IFREG | 0o666, self.file.metadata()?.size()),
            _ => (libc::S_IFDIR | 0o755, 0),
        };
        Ok(Attr { ino: nodeid, mode, size, nlink: 1, blocks: size / 512, ..Attr::default() })
    }

    fn answer(&self, request: &Request, ticket: &mut Ticket) -> io::Result<Reply> {
        let nodeid = request.header.nodeid;
        Ok(match &request.operation {
            Operation::Lookup { name } if name.as_bytes() == b"f" => Reply::Entry(Entry {
                nodeid: 2,
                entry_valid: FOREVER,
                attr: self.attr(2)?,
                ..Entry::default()
            }),
            Operation::Lookup { .. } => Reply::Error(Errno::ENOENT),
            Operation::Getattr { .. } => {
                Reply::Attr { attr: self.attr(nodeid)?, valid: Duration::ZERO }
            }
            Operation::Setattr(setattr) => {
                setattr.size.map(|size| self.file.set_len(size)).transpose()?;
                Reply::Attr { attr: self.attr(nodeid)?, valid: Duration::ZERO }
            }
            Operation::Open(_) | Operation::Opendir(_) => {
                Reply::Opened(Opened { flags: OpenFlags::KEEP_CACHE, ..Opened::default() })
            }
            Operation::Read(read) => {
                let size = read.size as usize;
                let mut buffer = ticket.buffer().unwrap_or_else(|| self.pool.take(size));
                buffer.set_len(size);
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
}

fn by_device(channel: &Channel, server: &Server, threads: usize) -> anyhow::Result<()> {
    channel.handshake(&Wanted::default())?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1))
            .map(|_| scope.spawn(|| serve(channel.receiver(), server)))
            .collect();
        threads.into_iter().try_for_each(|thread| Ok(thread.join().expect("no panic")?))
    })
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: pread_server FILE DIRECTORY [dev|spin|uring] [THREADS]";
    let (file, directory) = arguments.next().zip(arguments.next()).context(usage)?;
    let transport = arguments.next().unwrap_or_else(|| "dev".to_owned());
    let threads = arguments.next().map_or(Ok(uring::possible_cores()), |count| count.parse())?;
    let mut config = Config::plain()?;
    let file = File::options().read(true).write(true).open(file)?;
    let server = Arc::new(Server { file, pool: config.pool.clone() });
    if transport == "uring" && uring::enable()? {
        println!("fuse-over-io_uring was off and is on from now on: {}", uring::PARAMETER);
    }
    let device = mount(Path::new(&directory), &MountOptions::default())?.device;
    match transport.as_str() {
        "dev" => by_device(&Channel::device(device, config)?, &server, threads),
        "spin" => {
            config.spin = Duration::from_micros(50);
            by_device(&Channel::device(device, config)?, &server, threads)
        }
        "uring" => {
            let prepared = Prepared::new(&uring::Config::default())?;
            config.max_write = prepared.payload();
            let channel = Channel::device(device, config)?;
            let mut wanted = Wanted::default();
            wanted.flags |= InitFlags::OVER_IO_URING;
            let agreed = channel.handshake(&wanted)?;
            prepared.start(&channel, &agreed, server)?.join();
            Ok(())
        }
        other => bail!("{other}: {usage}"),
    }
}
