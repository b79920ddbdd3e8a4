//! The two splice-reads side by side: what each puts into the pipe, and how to tell them apart.
//!
//!     cargo run -p inflight-splice --example two_ways
//!     cargo run -p inflight-splice --features pipe-backed --example two_ways
//!
//! With the feature it also shows the pipe-backed iterator being wrong.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::Result;
use inflight_dio::{DirectFile, Engine, Pool, PoolConfig};
use inflight_splice::direct::{self, Segment};
use inflight_splice::{Filled, PipePool, ReplyChannel};

fn main() -> Result<()> {
    let dir = std::env::current_dir()?;
    let mut image = tempfile::NamedTempFile::new_in(&dir)?;
    image.write_all(&[b'A'; 10_000])?;
    image.as_file().sync_all()?;
    let pool = Pool::new(PoolConfig { slabs: 1, ..PoolConfig::default() })?;
    let engine = Engine::new(&pool)?;
    let file = Arc::new(DirectFile::open(image.path(), false)?);
    let pipes = PipePool::new(1 << 20, 4)?;
    println!(
        "image: 10000 bytes of 'A'; pipes of {} slots, largest reply {} bytes\n",
        pipes.report().slots,
        pipes.max_payload()
    );

    println!("a request for 16384 bytes, past the end of the image:");
    let buffered = buffered(&pipes, &image, 16384)?;
    println!("  buffered  {buffered:?}: page cache pages, nothing copied");
    let direct = direct(&pipes, &engine, &file, &pool, 16384)?;
    println!(
        "  direct    {direct:?}: {} bytes of the pool, trimmed to what was read\n",
        pool.report().in_use
    );

    println!("the image is overwritten with 'B' while both replies wait in their pipes:");
    image.as_file().write_all_at(&[b'B'; 10_000], 0)?;
    println!("  buffered  holds {} (aliases the file)", census(&buffered)?);
    println!("  direct    holds {} (a copy made before)\n", census(&direct)?);
    drop((buffered, direct));

    mixed_reply(&pipes, &engine, &file, &pool)?;
    #[cfg(feature = "pipe-backed")]
    broken(&pipes, &engine, &file, &pool)?;
    println!("pool in use {} bytes; pipes {:?}", pool.report().in_use, pipes.report());
    Ok(())
}

fn buffered(pipes: &PipePool, image: &tempfile::NamedTempFile, len: usize) -> Result<Filled> {
    let mut fill = pipes.begin(len)?;
    fill.file(image.as_file().as_fd(), 0, len)?;
    Ok(fill.finish()?)
}

fn direct(
    pipes: &PipePool,
    engine: &Engine,
    file: &Arc<DirectFile>,
    pool: &Pool,
    len: usize,
) -> Result<Filled> {
    let pieces = direct::read(engine, file, pool, &[Segment::Data { offset: 0, len }])?;
    let mut fill = pipes.begin(len)?;
    direct::fill(&mut fill, pieces)?;
    Ok(fill.finish()?)
}

/// Extent, hole, extent, as one message behind a header.
fn mixed_reply(
    pipes: &PipePool,
    engine: &Engine,
    file: &Arc<DirectFile>,
    pool: &Pool,
) -> Result<()> {
    let segments = [
        Segment::Data { offset: 100, len: 3000 },
        Segment::Hole { len: 5000 },
        Segment::Data { offset: 4096, len: 4096 },
    ];
    let sink = tempfile::tempfile_in(std::env::current_dir()?)?;
    let channel = ReplyChannel::new(sink.try_clone()?.into(), pipes.clone());
    let pieces = direct::read(engine, file, pool, &segments)?;
    let mut fill = channel.begin(12096)?;
    direct::fill(&mut fill, pieces)?;
    let filled = fill.finish()?;
    println!("a reply of extent, hole and extent: {filled:?}");
    channel.send(b"sixteen bytes..!", filled)?;
    println!("  arrived in one splice: {} bytes behind the header\n", sink.metadata()?.len() - 16);
    Ok(())
}

#[cfg(feature = "pipe-backed")]
fn broken(pipes: &PipePool, engine: &Engine, file: &Arc<DirectFile>, pool: &Pool) -> Result<()> {
    use inflight_splice::pipe_backed::{self, Revert};
    let segments = [Segment::Data { offset: 0, len: 16384 }];
    println!("the pipe-backed iterator (deliberately broken), 16384 bytes of the same image:");
    let filled = pipe_backed::read(pipes, engine, file, pool, &segments, 16384, Revert::FreeTail)?;
    println!("  {filled:?}: as long as was asked for");
    let mut next = pool.take(4096);
    next.as_mut_slice().fill(b'X');
    println!("  another reader gets a reverted page and fills it with 'X'; the reply");
    println!("  holds {}\n", census(&filled)?);
    Ok(())
}

/// How often each byte occurs in the pipe.
fn census(filled: &Filled) -> Result<String> {
    let mut bytes = vec![0; filled.len()];
    std::fs::File::from(filled.pipe().reader().try_clone_to_owned()?).read_exact(&mut bytes)?;
    let mut runs: Vec<(u8, usize)> = Vec::new();
    for byte in bytes {
        match runs.last_mut() {
            Some((last, count)) if *last == byte => *count += 1,
            _ => runs.push((byte, 1)),
        }
    }
    let name =
        |b: u8| if b.is_ascii_graphic() { format!("'{}'", b as char) } else { format!("{b:#04x}") };
    Ok(runs.iter().map(|&(b, n)| format!("{n} x {}", name(b))).collect::<Vec<_>>().join(", "))
}
