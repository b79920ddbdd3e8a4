//! Copies a file with O_DIRECT on both sides: several requests in flight, buffers moved through
//! the engine and back.
//!
//!     cargo run --release -p inflight-dio --example copy_direct -- SOURCE TARGET

use std::fs::File;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use inflight_dio::{Completion, DirectFile, Engine, Op, Pool, PoolConfig, Request, align_up};

const CHUNK: usize = 1 << 20;
const IN_FLIGHT: u64 = 8;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (source, target) =
        args.next().zip(args.next()).context("usage: copy_direct SOURCE TARGET")?;
    let pool = Pool::new(PoolConfig { slabs: 8, ..PoolConfig::default() })?;
    let engine = Engine::new(&pool)?;
    let source = Arc::new(DirectFile::open(&source, false)?);
    File::create(&target).with_context(|| format!("creating {target}"))?;
    let target = Arc::new(DirectFile::open(&target, true)?);
    let size = source.size()?;

    let start = Instant::now();
    copy(&engine, &pool, &source, &target, size)?;
    // The last block was written whole: cut off its padding.
    target.file().set_len(size)?;
    target.file().sync_all()?;
    let mib = size as f64 / f64::from(1 << 20);
    println!("{mib:.1} MiB, {:.0} MiB/s", mib / start.elapsed().as_secs_f64());
    println!("{}", describe(&engine, &pool));
    Ok(())
}

fn copy(
    engine: &Engine,
    pool: &Pool,
    source: &Arc<DirectFile>,
    target: &Arc<DirectFile>,
    size: u64,
) -> Result<()> {
    let (tx, rx) = mpsc::channel::<(u64, Op, Completion)>();
    let submit = |buf, file: &Arc<DirectFile>, offset, len, op| {
        let tx = tx.clone();
        let request = Request { file: Arc::clone(file), buf, offset, len, op };
        engine.submit(request, Box::new(move |c| drop(tx.send((offset, op, c)))));
    };
    let align = target.alignment().offset;
    let chunks = size.div_ceil(CHUNK as u64);
    let mut next = chunks.min(IN_FLIGHT);
    (0..next).for_each(|i| submit(pool.take(CHUNK), source, i * CHUNK as u64, CHUNK, Op::Read));
    let mut written = 0;
    while written < chunks {
        let (offset, op, Completion { mut buf, result }) = rx.recv()?;
        let moved = result.with_context(|| format!("{op:?} at {offset}"))?;
        match op {
            Op::Read => {
                let padded = align_up(moved, align);
                ensure!(moved > 0, "the source shrank below {offset}");
                buf.set_len(padded);
                buf.as_mut_slice()[moved..].fill(0);
                submit(buf, target, offset, padded, Op::Write);
            }
            Op::Write => {
                written += 1;
                if next < chunks {
                    submit(buf, source, next * CHUNK as u64, CHUNK, Op::Read);
                    next += 1;
                }
            }
        }
    }
    Ok(())
}

fn describe(engine: &Engine, pool: &Pool) -> String {
    let r = pool.report();
    format!(
        "queue {:?}, memory {:?}, pinned by {:?}, reasons {:?}",
        engine.queue_kind(),
        r.backing,
        r.pin,
        r.reasons
    )
}
