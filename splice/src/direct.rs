//! The direct splice-read: buffers first, then the read, then the trim, and only then the pipe.
//!
//! The order is the point. A pipe-backed iterator put its pages into the pipe before the read and
//! took back ("reverted") what a short read had not filled, while the device or another reader
//! could still refer to it. Here a page reaches the pipe when it is known to hold data, and
//! nothing is ever reverted.

use std::io;
use std::sync::{Arc, mpsc};

use inflight_dio::{Buffer, DirectFile, Done, Engine, Op, Pool, Request, SLAB};

use crate::filling::{FillError, Filling};

/// A stretch of a file as its extents map it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// `len` bytes at byte `offset` of the image; neither needs to be aligned.
    Data {
        /// First byte in the image.
        offset: u64,
        /// Bytes.
        len: usize,
    },
    /// `len` bytes of hole.
    Hole {
        /// Bytes.
        len: usize,
    },
}

/// What is ready for the pipe.
#[derive(Debug)]
pub enum Piece {
    /// `len` bytes from byte `from` of `buf`.
    Data {
        /// The memory.
        buf: Buffer,
        /// First byte.
        from: usize,
        /// Bytes.
        len: usize,
    },
    /// Zeroes.
    Zeros {
        /// Bytes.
        len: usize,
    },
}

impl Piece {
    /// Bytes of data.
    pub fn len(&self) -> usize {
        match self {
            Self::Data { len, .. } | Self::Zeros { len } => *len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One aligned read that covers a data segment or a part of it.
struct Window {
    start: u64,
    aligned_len: usize,
    from: usize,
    len: usize,
}

/// Reads `segments` in order with O_DIRECT into buffers of `pool`. The pieces hold exactly what was
/// read: at the end of the image the last one is short and those after it are missing.
///
/// One segment is read by the calling thread; several are queued together.
///
/// # Errors
/// The first error of the device. All buffers are back in the pool then.
pub fn read(
    engine: &Engine,
    file: &Arc<DirectFile>,
    pool: &Pool,
    segments: &[Segment],
) -> io::Result<Vec<Piece>> {
    let plan = plan(file.alignment().read_offset, segments)?;
    let data = plan.iter().filter(|p| matches!(p, Planned::Read(_))).count();
    let buffers = if data > 1 {
        read_queued(engine, file, pool, &plan)?
    } else {
        read_here(engine, file, pool, &plan)?
    };
    Ok(trim(plan, buffers))
}

/// Puts `pieces` into the pipe, in order.
///
/// # Errors
/// As [`Filling::memory`] and [`Filling::zeros`].
pub fn fill(filling: &mut Filling, pieces: Vec<Piece>) -> Result<(), FillError> {
    for piece in pieces {
        match piece {
            Piece::Data { buf, from, len } => filling.memory(buf, from, len)?,
            Piece::Zeros { len } => filling.zeros(len)?,
        }
    }
    Ok(())
}

enum Planned {
    Read(Window),
    Zeros(usize),
}

/// Aligned windows of at most a slab each.
fn plan(align: usize, segments: &[Segment]) -> io::Result<Vec<Planned>> {
    let mut plan = Vec::with_capacity(segments.len());
    for segment in segments {
        match *segment {
            Segment::Hole { len: 0 } | Segment::Data { len: 0, .. } => {}
            Segment::Hole { len } => plan.push(Planned::Zeros(len)),
            Segment::Data { offset, len } => windows(align, offset, len, &mut plan)?,
        }
    }
    Ok(plan)
}

fn windows(align: usize, offset: u64, len: usize, plan: &mut Vec<Planned>) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let end = offset.checked_add(len as u64).ok_or_else(invalid)?;
    let mut at = offset;
    while at < end {
        let from = (at % align as u64) as usize;
        let start = at - from as u64;
        let len = ((end - start).min(SLAB as u64)) as usize - from;
        let aligned_len = inflight_dio::align_up(from + len, align);
        plan.push(Planned::Read(Window { start, aligned_len, from, len }));
        at += len as u64;
    }
    Ok(())
}

fn read_here(
    engine: &Engine,
    file: &DirectFile,
    pool: &Pool,
    plan: &[Planned],
) -> io::Result<Vec<Buffer>> {
    let mut buffers = Vec::new();
    for planned in plan {
        if let Planned::Read(w) = planned {
            let buf = pool.try_take(w.aligned_len)?;
            let (buf, result) = engine.read_at(file, buf, w.start, w.aligned_len);
            result?;
            buffers.push(buf);
        }
    }
    Ok(buffers)
}

fn read_queued(
    engine: &Engine,
    file: &Arc<DirectFile>,
    pool: &Pool,
    plan: &[Planned],
) -> io::Result<Vec<Buffer>> {
    let (tx, rx) = mpsc::channel();
    let mut requests: Vec<(Request, Done)> = Vec::new();
    for planned in plan {
        if let Planned::Read(w) = planned {
            let (buf, place, tx) = (pool.try_take(w.aligned_len)?, requests.len(), tx.clone());
            let file = Arc::clone(file);
            let len = w.aligned_len;
            let request = Request { file, buf, offset: w.start, len, op: Op::Read };
            // The receiver waits for every sender, so the send cannot fail.
            let done: Done = Box::new(move |c| drop(tx.send((place, c))));
            requests.push((request, done));
        }
    }
    drop(tx);
    let mut buffers: Vec<Option<Buffer>> = requests.iter().map(|_| None).collect();
    engine.submit_batch(requests);
    let mut failed = None;
    for (place, completion) in rx {
        match completion.result {
            Ok(_) => buffers[place] = Some(completion.buf),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    failed.map_or_else(|| Ok(buffers.into_iter().flatten().collect()), Err)
}

/// Keeps what was read, up to the first shortage.
fn trim(plan: Vec<Planned>, buffers: Vec<Buffer>) -> Vec<Piece> {
    let mut buffers = buffers.into_iter();
    let mut pieces = Vec::with_capacity(plan.len());
    for planned in plan {
        match planned {
            Planned::Zeros(len) => pieces.push(Piece::Zeros { len }),
            Planned::Read(w) => {
                let Some(buf) = buffers.next() else { break };
                let len = buf.len().saturating_sub(w.from).min(w.len);
                if len > 0 {
                    pieces.push(Piece::Data { buf, from: w.from, len });
                }
                if len < w.len {
                    break;
                }
            }
        }
    }
    pieces
}
