//! Which way of a synchronous O_DIRECT transfer is quickest here: pread/pwrite, or a ring with
//! fixed buffers. Prints the median and the 99th percentile for each, interleaved.
//!
//!     cargo run --release -p inflight-dio --example sync_latency -- FILE [ROUNDS]
//!
//! FILE is overwritten (64 MiB) unless it is at least that long.

use std::os::fd::AsRawFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use inflight_dio::{Buffer, DirectFile, Engine, Op, Pool, PoolConfig, Request};
use io_uring::{IoUring, opcode, types::Fd};

const SIZE: u64 = 64 << 20;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().context("usage: sync_latency FILE [ROUNDS]")?;
    let rounds: usize = args.next().map_or(Ok(2000), |n| n.parse())?;
    prepare(&path)?;
    let pool = Pool::new(PoolConfig { slabs: 4, ..PoolConfig::default() })?;
    let engine = Engine::new(&pool)?;
    let file = Arc::new(DirectFile::open(&path, true)?);
    let mut bare = Bare::new(&pool)?;
    let start = Instant::now();
    (0..100_000).for_each(|_| drop(std::hint::black_box(pool.take(4096))));
    println!("take and drop of 4 KiB: {} ns", start.elapsed().as_nanos() / 100_000);
    println!(
        "{:<8} {:<6} {:>12} {:>12} {:>12} {:>12} {:>12}",
        "op", "bytes", "p(read|write)", "ring fixed", "ring plain", "engine queue", "4K-page buf"
    );
    for len in [4096, 128 << 10, 1 << 20] {
        for op in [Op::Read, Op::Write] {
            let n = rounds * 4096 / len.max(4096 * 8) + rounds / 10;
            let mut times: Vec<Vec<Duration>> = vec![Vec::new(); 5];
            let base = Pool::new(PoolConfig { slabs: 1, huge: false, ..PoolConfig::default() })?;
            for i in 0..n as u64 {
                let offset = (i * 7919 * 4096 * 256 + i * 4096) % (SIZE - (1 << 20)) / 4096 * 4096;
                // Each way takes each place in the row: what ran before leaves its mark.
                for turn in 0..5 {
                    let way = (turn + i as usize) % 5;
                    times[way].push(match way {
                        0 => plain(&engine, &file, &pool, op, offset, len)?,
                        1 => bare.once(&file, op, offset, len, true)?,
                        2 => bare.once(&file, op, offset, len, false)?,
                        3 => queued(&engine, &file, &pool, op, offset, len)?,
                        _ => plain(&engine, &file, &base, op, offset, len)?,
                    });
                }
            }
            print!("{:<8} {:<6}", format!("{op:?}"), len);
            for t in &mut times {
                t.sort();
                print!(" {:>6.1}/{:<6.1}", us(t[t.len() / 2]), us(t[t.len() * 99 / 100]));
            }
            println!(" us, median/p99 of {n}");
        }
    }
    Ok(())
}

fn us(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

fn prepare(path: &str) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|m| m.len() >= SIZE) {
        return Ok(());
    }
    std::fs::write(path, vec![1; SIZE as usize])?;
    Ok(std::fs::File::open(path)?.sync_all()?)
}

fn plain(
    engine: &Engine,
    file: &DirectFile,
    pool: &Pool,
    op: Op,
    at: u64,
    len: usize,
) -> Result<Duration> {
    let buf = pool.take(len);
    let start = Instant::now();
    let (_, result) = match op {
        Op::Read => engine.read_at(file, buf, at, len),
        Op::Write => engine.write_at(file, buf, at, len),
    };
    result?;
    Ok(start.elapsed())
}

fn queued(
    engine: &Engine,
    file: &Arc<DirectFile>,
    pool: &Pool,
    op: Op,
    at: u64,
    len: usize,
) -> Result<Duration> {
    let (tx, rx) = mpsc::channel();
    let start = Instant::now();
    let request = Request { file: Arc::clone(file), buf: pool.take(len), offset: at, len, op };
    engine.submit(request, Box::new(move |c| drop(tx.send(c))));
    rx.recv()?.result?;
    Ok(start.elapsed())
}

/// A ring of the calling thread, as a per-thread ring of an engine would be.
struct Bare {
    ring: IoUring,
    buf: Buffer,
}

impl Bare {
    #[allow(unsafe_code)]
    fn new(pool: &Pool) -> Result<Self> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(8)?;
        let mut buf = pool.take(inflight_dio::SLAB);
        let iov = libc::iovec {
            iov_base: buf.as_mut_slice().as_mut_ptr().cast(),
            iov_len: buf.capacity(),
        };
        // SAFETY: the buffer lives in the same structure as the ring and is touched by nothing else.
        unsafe { ring.submitter().register_buffers(&[iov])? };
        Ok(Self { ring, buf })
    }

    #[allow(unsafe_code)]
    fn once(
        &mut self,
        file: &DirectFile,
        op: Op,
        at: u64,
        len: usize,
        fixed: bool,
    ) -> Result<Duration> {
        let fd = Fd(file.file().as_raw_fd());
        let p = self.buf.as_mut_slice().as_mut_ptr();
        let start = Instant::now();
        let entry = match (op, fixed) {
            (Op::Read, true) => opcode::ReadFixed::new(fd, p, len as u32, 0).offset(at).build(),
            (Op::Write, true) => opcode::WriteFixed::new(fd, p, len as u32, 0).offset(at).build(),
            (Op::Read, false) => opcode::Read::new(fd, p, len as u32).offset(at).build(),
            (Op::Write, false) => opcode::Write::new(fd, p, len as u32).offset(at).build(),
        };
        // SAFETY: the buffer stays in `self` until the completion was seen, below.
        unsafe { self.ring.submission().push(&entry) }?;
        self.ring.submit_and_wait(1)?;
        let done = self.ring.completion().next().context("a completion")?;
        anyhow::ensure!(done.result() == len as i32, "result {}", done.result());
        Ok(start.elapsed())
    }
}
