//! What a spliced reply costs before any byte is copied, against the pread that it saves: the
//! figure behind a threshold below which replies are copied.
//!
//!     cargo run --release -p inflight-splice --example overhead
//!
//! The sink is /dev/null, which takes pages without looking at them; /dev/fuse would copy them to
//! the reader in both ways alike.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::Result;
use inflight_dio::{Pool, PoolConfig};
use inflight_splice::{PipePool, ReplyChannel};

const ROUNDS: usize = 3000;

fn main() -> Result<()> {
    let mut image = tempfile::NamedTempFile::new_in(std::env::current_dir()?)?;
    image.write_all(&vec![1; 1 << 20])?;
    let pool = Pool::new(PoolConfig { slabs: 2, ..PoolConfig::default() })?;
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    let channel = ReplyChannel::new(null.try_clone()?.into(), PipePool::new(1 << 20, 4)?);
    println!(
        "{:>8} {:>14} {:>14} {:>14}  us, median of {ROUNDS}",
        "bytes", "pread + write", "page cache", "vmsplice"
    );
    for len in [4 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 512 << 10, 1020 << 10] {
        let mut times: [Vec<Duration>; 3] = Default::default();
        for _ in 0..ROUNDS {
            times[0].push(timed(|| {
                let mut buf = pool.take(len);
                image.as_file().read_exact_at(buf.as_mut_slice(), 0)?;
                (&null).write_all(buf.as_slice())?;
                Ok(())
            })?);
            times[1].push(timed(|| {
                let mut fill = channel.begin(len)?;
                fill.file(image.as_file().as_fd(), 0, len)?;
                Ok(channel.send(&[0; 16], fill.finish()?)?)
            })?);
            times[2].push(timed(|| {
                let mut fill = channel.begin(len)?;
                fill.memory(pool.take(len), 0, len)?;
                Ok(channel.send(&[0; 16], fill.finish()?)?)
            })?);
        }
        print!("{len:>8}");
        for t in &mut times {
            t.sort();
            print!(" {:>14.1}", t[ROUNDS / 2].as_secs_f64() * 1e6);
        }
        println!();
    }
    Ok(())
}

fn timed(run: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed())
}
