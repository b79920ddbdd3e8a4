//! DELIBERATELY BROKEN: the pipe-backed iterator (`ITER_PIPE`, gone since Linux 6.5) in user space.
//!
//! It does what the kernel once did: pages go into the pipe *before* the read, the read goes into
//! pages that are in the pipe already, and a short read "reverts": the tail pages return to the
//! allocator. The pipe still refers to them. Whoever gets them next writes into this reply, and
//! the reply is as long as was asked for, not as was read.
//!
//! Exists so that a test suite can prove that it would notice. Never use it for data.

use std::io;

use inflight_dio::{Buffer, DirectFile, Engine, Pool, page_size};

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
    let (pages, got) = read_into(engine, file, pages, segments)?;
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

/// Reads the segments one after the other into the pages, a page at a time.
fn read_into(
    engine: &Engine,
    file: &DirectFile,
    pages: Vec<Buffer>,
    segments: &[Segment],
) -> io::Result<(Vec<Buffer>, usize)> {
    let page = page_size();
    let mut source = Source { engine, file, scratch: Vec::new() };
    for segment in segments {
        source.append(segment)?;
    }
    let got = source.scratch.len().min(pages.len() * page);
    let mut filled = Vec::with_capacity(pages.len());
    for (mut buf, bytes) in
        pages.into_iter().zip(source.scratch.chunks(page).map(Some).chain(std::iter::repeat(None)))
    {
        if let Some(bytes) = bytes {
            // The page is in the pipe already: this is the write that the right way never does.
            buf.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        }
        filled.push(buf);
    }
    Ok((filled, got))
}

struct Source<'a> {
    engine: &'a Engine,
    file: &'a DirectFile,
    scratch: Vec<u8>,
}

impl Source<'_> {
    fn append(&mut self, segment: &Segment) -> io::Result<()> {
        match *segment {
            Segment::Hole { len } => self.scratch.resize(self.scratch.len() + len, 0),
            Segment::Data { offset, len } => {
                let align = self.file.alignment().read_offset;
                let from = (offset % align as u64) as usize;
                let aligned = inflight_dio::align_up(from + len, align);
                let buf = self.engine.pool().try_take(aligned)?;
                let start = offset - from as u64;
                let (buf, result) = self.engine.read_at(self.file, buf, start, aligned);
                let end = result?.min(from + len);
                self.scratch.extend_from_slice(&buf.as_slice()[from.min(end)..end]);
            }
        }
        Ok(())
    }
}
