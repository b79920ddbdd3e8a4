//! Al Viro's open question (seed 002): what do small batches of pages cost against large ones?
//!
//! Reads a file with O_DIRECT into 4 KiB pages, so many of them a call, through three kinds of
//! iterator: our own pages (borrowed), user pages that are pinned by registration for each batch,
//! and user pages left to the kernel's own pin.
//!
//!     cargo run --release -p inflight-dio --example batches -- FILE

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use inflight_dio::iter::{IoIter, KernelPins, MlockPins, PinBackend, RingPins};
use inflight_dio::{DirectFile, Engine, Part, Pool, PoolConfig, page_size};

const BYTES: usize = 8 << 20;
const ROUNDS: usize = 7;

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: batches FILE (at least 8 MiB)")?;
    let pool = Pool::new(PoolConfig { slabs: 8, huge: false, ..PoolConfig::default() })?;
    let engine = Engine::new(&pool)?;
    let file = DirectFile::open(&path, false)?;
    println!("extraction alone, ns a page (pin and unpin)");
    println!("{:>6} {:>10} {:>10} {:>10}", "pages", "borrowed", "registered", "mlock");
    for pages in [1, 4, 16, 64, 256] {
        let ring = RingPins::new(1)?;
        let mlock = MlockPins::new();
        let borrowed = median(|| extract(&pool, pages, true, &KernelPins))?;
        let registered = median(|| extract(&pool, pages, false, &ring))?;
        let locked = median(|| extract(&pool, pages, false, &mlock))?;
        let page = |d: Duration| d.as_nanos() as f64 / (BYTES / page_size()) as f64;
        println!(
            "{pages:>6} {:>10.0} {:>10.0} {:>10.0}",
            page(borrowed),
            page(registered),
            page(locked)
        );
    }
    println!("O_DIRECT reads of {} MiB into scattered pages, MiB/s", BYTES >> 20);
    println!("{:>6} {:>10} {:>10}", "pages", "bvec", "iovec");
    for pages in [1, 4, 16, 64, 256] {
        let own = median(|| read(&engine, &file, &pool, pages, true))?;
        let user = median(|| read(&engine, &file, &pool, pages, false))?;
        let rate = |d: Duration| BYTES as f64 / f64::from(1 << 20) / d.as_secs_f64();
        println!("{pages:>6} {:>10.0} {:>10.0}", rate(own), rate(user));
    }
    Ok(())
}

fn median(mut run: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut times = (0..ROUNDS).map(|_| run()).collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times[ROUNDS / 2])
}

/// Extracts BYTES in batches of one contiguous range of `pages` pages.
fn extract(pool: &Pool, pages: usize, own: bool, backend: &dyn PinBackend) -> Result<Duration> {
    let len = pages * page_size();
    let mut buf = pool.take(len);
    let start = Instant::now();
    for _ in 0..BYTES / len {
        let mut iter = if own { IoIter::kvec([&mut buf]) } else { IoIter::ubuf(&mut buf) };
        std::hint::black_box(iter.extract(len, 1, backend)?);
    }
    Ok(start.elapsed())
}

/// Reads BYTES in batches of `pages` single pages.
fn read(
    engine: &Engine,
    file: &DirectFile,
    pool: &Pool,
    pages: usize,
    own: bool,
) -> Result<Duration> {
    let page = page_size();
    let mut parts: Vec<Part> =
        (0..pages).map(|_| Part { buf: pool.take(page), from: 0, len: page }).collect();
    // Backwards, so that no page follows its neighbour.
    parts.reverse();
    let start = Instant::now();
    for at in (0..BYTES).step_by(pages * page) {
        let mut iter = match own {
            true => IoIter::bvec(&mut parts),
            false => IoIter::iovec(parts.iter_mut().map(|p| &mut p.buf)),
        };
        engine.read_iter(file, &mut iter, at as u64)?;
    }
    Ok(start.elapsed())
}
