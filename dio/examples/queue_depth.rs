//! Random O_DIRECT reads with so many in flight: the engine's queue, its completions taken from a
//! channel or answered in the callback, against a bare ring that one thread drives, and against as
//! many threads with pread.
//!
//!     cargo run --release -p inflight-dio --example queue_depth -- FILE     (at least 64 MiB)

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use inflight_dio::{Buffer, Completion, DirectFile, Engine, Op, Pool, PoolConfig, Request};
use io_uring::{IoUring, opcode, types::Fd};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SPAN: u64 = 64 << 20;
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: queue_depth FILE (at least 64 MiB)")?;
    let pool = Pool::new(PoolConfig { slabs: 64, ..PoolConfig::default() })?;
    let engine = Arc::new(Engine::new(&pool)?);
    let file = Arc::new(DirectFile::open(&path, false)?);
    ensure!(file.size()? >= SPAN, "{path} is shorter than 64 MiB");
    println!(
        "{:>8} {:>4} {:>12} {:>12} {:>12} {:>12}  MiB/s, median of {ROUNDS}, interleaved",
        "bytes", "QD", "by channel", "by callback", "bare ring", "threads"
    );
    for (len, count) in [(4096, 20_000), (1 << 20, 300)] {
        for depth in [1, 4, 16] {
            let mut rates = [const { Vec::new() }; 4];
            for _ in 0..ROUNDS {
                let offsets = offsets(len, count);
                rates[0].push(rate(len, count, || {
                    queued(&engine, &file, &pool, &offsets, len, depth)
                })?);
                rates[1].push(rate(len, count, || {
                    chained(&engine, &file, &pool, &offsets, len, depth)
                })?);
                rates[2].push(rate(len, count, || bare(&file, &pool, &offsets, len, depth))?);
                rates[3].push(rate(len, count, || {
                    threads(&engine, &file, &pool, &offsets, len, depth)
                })?);
            }
            print!("{len:>8} {depth:>4}");
            for r in &mut rates {
                r.sort_by(f64::total_cmp);
                print!(" {:>12.0}", r[ROUNDS / 2]);
            }
            println!();
        }
    }
    Ok(())
}

/// The same random offsets in every run.
fn offsets(len: usize, count: usize) -> Vec<u64> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    (0..count).map(|_| rng.random_range(0..SPAN / len as u64) * len as u64).collect()
}

fn rate(len: usize, count: usize, run: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    run()?;
    Ok((len * count) as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64())
}

fn queued(
    engine: &Engine,
    file: &Arc<DirectFile>,
    pool: &Pool,
    offsets: &[u64],
    len: usize,
    depth: usize,
) -> Result<()> {
    let (tx, rx) = mpsc::channel::<Completion>();
    let submit = |buf: Buffer, offset| {
        let (tx, file) = (tx.clone(), Arc::clone(file));
        let request = Request { file, buf, offset, len, op: Op::Read };
        engine.submit(request, Box::new(move |c| drop(tx.send(c))));
    };
    let (first, rest) = offsets.split_at(depth);
    first.iter().for_each(|&at| submit(pool.take(len), at));
    for &at in rest {
        let done = rx.recv()?;
        done.result?;
        submit(done.buf, at);
    }
    for _ in first {
        rx.recv()?.result?;
    }
    Ok(())
}

/// Each completion submits the next request, as a server that replies from the callback does.
struct Chain {
    engine: Arc<Engine>,
    file: Arc<DirectFile>,
    offsets: Vec<u64>,
    next: AtomicUsize,
    len: usize,
    over: mpsc::Sender<std::io::Result<()>>,
}

impl Chain {
    fn step(self: Arc<Self>, buf: Buffer) {
        let Some(&offset) = self.offsets.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
            return drop(self.over.send(Ok(())));
        };
        let (engine, file, len) = (Arc::clone(&self.engine), Arc::clone(&self.file), self.len);
        let request = Request { file, buf, offset, len, op: Op::Read };
        engine.submit(
            request,
            Box::new(move |c| match c.result {
                Ok(_) => self.step(c.buf),
                Err(e) => drop(self.over.send(Err(e))),
            }),
        );
    }
}

fn chained(
    engine: &Arc<Engine>,
    file: &Arc<DirectFile>,
    pool: &Pool,
    offsets: &[u64],
    len: usize,
    depth: usize,
) -> Result<()> {
    let (over, rx) = mpsc::channel();
    let chain = Arc::new(Chain {
        engine: Arc::clone(engine),
        file: Arc::clone(file),
        offsets: offsets.to_vec(),
        next: AtomicUsize::new(0),
        len,
        over,
    });
    (0..depth).for_each(|_| Arc::clone(&chain).step(pool.take(len)));
    rx.iter().take(depth).try_for_each(|end| Ok(end?))
}

#[allow(unsafe_code)]
fn bare(file: &DirectFile, pool: &Pool, offsets: &[u64], len: usize, depth: usize) -> Result<()> {
    let mut ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(32)?;
    let mut bufs: Vec<Buffer> = (0..depth).map(|_| pool.take(len)).collect();
    let fd = Fd(file.file().as_raw_fd());
    let mut push = |ring: &mut IoUring, i: usize, at| {
        let p = bufs[i].as_mut_slice().as_mut_ptr();
        let entry = opcode::Read::new(fd, p, len as u32).offset(at).build().user_data(i as u64);
        // SAFETY: the buffers are dropped after the last completion was seen, below.
        unsafe { ring.submission().push(&entry) }
    };
    let (first, rest) = offsets.split_at(depth);
    for (i, &at) in first.iter().enumerate() {
        push(&mut ring, i, at)?;
    }
    let (mut rest, mut flying) = (rest.iter(), depth);
    while flying > 0 {
        ring.submit_and_wait(1)?;
        let done: Vec<_> =
            ring.completion().map(|c| (c.user_data() as usize, c.result())).collect();
        for (i, result) in done {
            ensure!(result == len as i32, "result {result}");
            match rest.next() {
                Some(&at) => push(&mut ring, i, at)?,
                None => flying -= 1,
            }
        }
    }
    Ok(())
}

fn threads(
    engine: &Engine,
    file: &DirectFile,
    pool: &Pool,
    offsets: &[u64],
    len: usize,
    depth: usize,
) -> Result<()> {
    std::thread::scope(|scope| {
        let share = offsets.len().div_ceil(depth);
        let runs: Vec<_> = offsets
            .chunks(share)
            .map(|mine| {
                scope.spawn(move || {
                    mine.iter().try_fold(pool.take(len), |buf, &at| {
                        let (buf, result) = engine.read_at(file, buf, at, len);
                        result.map(|_| buf)
                    })
                })
            })
            .collect();
        runs.into_iter().try_for_each(|run| Ok(run.join().expect("no panic").map(drop)?))
    })
}
