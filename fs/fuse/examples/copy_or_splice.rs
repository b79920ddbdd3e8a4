//! From which size on an answer is better spliced than copied: READs of one file on a real mount over
//! /dev/fuse, both ways in turns, in this process. `copy_or_splice [ROUNDS]` prints for each size the
//! medians of what a READ took and of both processors' time for it, client included.
//!
//! * `cached`: from a file's page cache by pread(2) and writev(2), or by splice(2) and splice(2).
//! * `memory`: out of a pool's buffer by writev(2), or by vmsplice(2) and splice(2); whoever filled it.

use anyhow::{Context as _, ensure};
use inflight_dio::Pool;
use inflight_fuse::abi::{OpenFlags, ROOT_ID};
use inflight_fuse::channel::{Channel, Config, Handler, Received, serve, uring::Queue};
use inflight_fuse::mount::{MountOptions, mount, unmount};
use inflight_fuse::{Attr, Data, Entry, FOREVER, Opened, Operation, Read, Reply, Request, Wanted};
use inflight_splice::PipePool;
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Bytes of the file.
const LEN: usize = 16 << 20;
/// An answer of 1 MiB and its header: 257 slots, which become 512.
const PIPE: usize = 2 << 20;
/// Bytes of each batch of READs.
const BATCH: usize = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    CachedCopied,
    CachedSpliced,
    MemoryCopied,
    MemorySpliced,
}

const WAYS: [Way; 4] =
    [Way::CachedCopied, Way::CachedSpliced, Way::MemoryCopied, Way::MemorySpliced];

struct Server {
    file: File,
    pool: Pool,
    channel: Channel,
    way: AtomicUsize,
}

impl Server {
    fn read(&self, read: &Read) -> anyhow::Result<Data> {
        let len = read.size as usize;
        let buffer = || {
            let mut buffer = self.pool.take(len);
            buffer.set_len(len);
            buffer
        };
        Ok(match WAYS[self.way.load(Ordering::Relaxed)] {
            Way::CachedCopied => {
                let mut buffer = buffer();
                self.file.read_exact_at(buffer.as_mut_slice(), read.offset)?;
                Data::from(buffer)
            }
            Way::CachedSpliced => {
                let mut filling = self.channel.begin(len)?;
                ensure!(filling.file(self.file.as_fd(), read.offset, len)? == len);
                Data::Piped(filling.finish()?)
            }
            Way::MemoryCopied => Data::from(buffer()),
            Way::MemorySpliced => {
                let mut filling = self.channel.begin(len)?;
                filling.memory(buffer(), 0, len)?;
                Data::Piped(filling.finish()?)
            }
        })
    }

    fn answer(&self, request: &Request) -> Reply {
        let root = Attr { ino: ROOT_ID, mode: libc::S_IFDIR | 0o755, nlink: 1, ..Attr::default() };
        let (mode, size) = (libc::S_IFREG | 0o444, LEN as u64);
        let file = Attr { ino: 2, mode, size, nlink: 1, ..Attr::default() };
        let attr = if request.header.nodeid == ROOT_ID { root } else { file };
        let (entry_valid, attr_valid) = (FOREVER, FOREVER);
        match &request.operation {
            Operation::Lookup { name } if name.as_bytes() == b"f" => Reply::Entry(Entry {
                nodeid: 2,
                generation: 0,
                entry_valid,
                attr_valid,
                attr: file,
            }),
            Operation::Lookup { .. } => Reply::Error(Errno::ENOENT),
            Operation::Getattr { .. } => Reply::Attr { attr, valid: FOREVER },
            // A read(2) is a READ.
            Operation::Open(_) => {
                Reply::Opened(Opened { flags: OpenFlags::DIRECT_IO, ..Opened::default() })
            }
            Operation::Read(read) => match self.read(read) {
                Ok(data) => Reply::Data(data),
                Err(error) => {
                    eprintln!("{error:#}");
                    Reply::Error(Errno::EIO)
                }
            },
            Operation::Release(_) => Reply::Empty,
            _ => Reply::Error(Errno::ENOSYS),
        }
    }
}

impl Handler for Server {
    fn request(&self, received: Received, _queue: Option<&mut Queue>) {
        let _ = received.ticket.reply(self.answer(&received.request));
    }
}

/// Time and processor time in microseconds for each READ of a batch.
fn batch(file: &File, memory: &mut [u8]) -> anyhow::Result<(f64, f64)> {
    let count = (BATCH / memory.len()).min(256);
    let spent = || -> anyhow::Result<i64> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        Ok((usage.user_time() + usage.system_time()).num_microseconds())
    };
    let (begun, before) = (Instant::now(), spent()?);
    for number in 0..count {
        file.read_exact_at(memory, (number * memory.len() % LEN) as u64)?;
    }
    let processor = (spent()? - before) as f64;
    Ok((begun.elapsed().as_secs_f64() * 1e6 / count as f64, processor / count as f64))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn measure(server: &Server, file: &File, rounds: usize) -> anyhow::Result<()> {
    println!(
        "  size   cached: copied  spliced  memory: copied  spliced   (us a READ / us of processor)"
    );
    for kib in [4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024] {
        if server.channel.begin(kib << 10).is_err() {
            println!("{kib:5}K  is more than the pipes take: fs.pipe-max-size");
            continue;
        }
        // Page-aligned, as whoever reads much has it.
        let mut memory = server.pool.take(kib << 10);
        memory.set_len(kib << 10);
        let mut found = [const { (Vec::new(), Vec::new()) }; WAYS.len()];
        for _ in 0..rounds {
            for (way, found) in found.iter_mut().enumerate() {
                server.way.store(way, Ordering::Relaxed);
                let (time, processor) = batch(file, memory.as_mut_slice())?;
                found.0.push(time);
                found.1.push(processor);
            }
        }
        let shown =
            found.map(|(times, spent)| format!("{:6.1}/{:6.1}", median(times), median(spent)));
        println!("{kib:5}K  {}", shown.join("  "));
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(15), |rounds| rounds.parse())?;
    let folder = tempfile::tempdir()?;
    let file = tempfile::tempfile_in("/var/tmp")?;
    file.write_all_at(&vec![7; LEN], 0)?;
    let pipes = Some(PipePool::new(PIPE, 4).context("pipes")?);
    let config = Config { pipes, spin: Duration::from_micros(20), ..Config::plain()? };
    let pool = config.pool.clone();
    let channel = Channel::device(mount(folder.path(), &MountOptions::default())?.device, config)?;
    channel.handshake(&Wanted::default())?;
    let server = Server { file, pool, channel: channel.clone(), way: AtomicUsize::new(0) };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| serve(channel.receiver(), &server));
        }
        let measured = File::open(folder.path().join("f"))
            .context("open")
            .and_then(|file| measure(&server, &file, rounds.max(1)));
        unmount(folder.path(), true)?;
        measured
    })
}
