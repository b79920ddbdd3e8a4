//! DELIBERATELY BROKEN: the pipe-backed iterator (`ITER_PIPE`, gone since Linux 6.5) in user space.
//!
//! It does what the kernel once did: pages go into the pipe *before* the read, the read goes into
//! pages that are in the pipe already, and a short read "reverts": the tail pages return to the
//! allocator. The pipe still refers to them. Whoever gets them next writes into this reply, and
//! the reply is as long as was asked for, not as was read.
//!
//! Exists so that a test suite can prove that it would notice. Never use it for data.

use std::io;

use inflight_dio::iter::IoIter;
use inflight_dio::{Buffer, DirectFile, Engine, Pool, align_up, page_size};

use crate::direct::Segment;
use crate::filling::Filled;
use crate::pool::PipePool;

/// What a short read does with the pages that it did not fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revert {
    /// They go back to the pool while the pipe refers to them: a later user's bytes show up.
    FreeTail,
    /// They stay, with whatever an earlier user left in them.
    LeaveTail,
}

/// Reads `segments` "into the pipe", wrongly. `wanted` is the length of the request; the data that
/// `segments` and the file really hold may be less.
///
/// # Errors
/// As the right way, [`direct::read`](crate::direct::read): pipes, memory, device.
pub fn read(
    pipes: &PipePool,
    engine: &Engine,
    file: &DirectFile,
    pool: &Pool,
    segments: &[Segment],
    wanted: usize,
    revert: Revert,
) -> io::Result<Filled> {
    let page = page_size();
    let mut filling = pipes.begin(wanted)?;
    let mut pages: Vec<Buffer> = Vec::new();
    for at in (0..wanted).step_by(page) {
        let buf = pool.try_take(page)?;
        filling.lend(&buf, (wanted - at).min(page))?;
        pages.push(buf);
    }
    // The pages are in the pipe already: this is the write that the right way never does.
    let got = read_into(engine, file, &mut IoIter::kvec(&mut pages), segments)?;
    for (i, buf) in pages.into_iter().enumerate() {
        let unread = i * page >= got;
        if unread && revert == Revert::FreeTail {
            drop(buf);
        } else {
            filling.hold(buf);
        }
    }
    Ok(filling.finish()?)
}

/// Reads the segments in order up to the first shortage. Returns the bytes read.
fn read_into(
    engine: &Engine,
    file: &DirectFile,
    pages: &mut IoIter<'_>,
    segments: &[Segment],
) -> io::Result<usize> {
    let mut got = 0;
    for segment in segments {
        let (wanted, moved) = match *segment {
            Segment::Hole { len } => (len, fill(pages, &vec![0; len])?),
            Segment::Data { offset, len } => {
                let align = file.alignment().read_offset;
                let from = (offset % align as u64) as usize;
                let aligned = align_up(from + len, align);
                // O_DIRECT cannot start inside a block, so the bytes come by way of a buffer.
                let buf = engine.pool().try_take(aligned)?;
                let (buf, result) = engine.read_at(file, buf, offset - from as u64, aligned);
                let end = result?.min(from + len);
                (len, fill(pages, &buf.as_slice()[from.min(end)..end])?)
            }
        };
        got += moved;
        if moved < wanted {
            break;
        }
    }
    Ok(got)
}

fn fill(pages: &mut IoIter<'_>, bytes: &[u8]) -> io::Result<usize> {
    pages.copy_from(bytes).map_err(io::Error::other)
}
