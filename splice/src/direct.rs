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
use crate::mutant::{self, Mutant};

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

    /// Keeps at most the first `max` bytes.
    pub fn truncate(&mut self, max: usize) {
        let (Self::Data { len, .. } | Self::Zeros { len }) = self;
        *len = (*len).min(max);
    }
}

/// One aligned read that covers a data segment or a part of it.
#[derive(Debug)]
struct Window {
    start: u64,
    aligned_len: usize,
    from: usize,
    len: usize,
}

/// Buffers taken for a read that has not begun. Dropping it gives them back.
#[derive(Debug)]
pub struct Prepared {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Read(Window, Buffer),
    Zeros(usize),
}

/// Takes buffers of `pool` for `segments` of `file`; nothing is read yet.
///
/// # Errors
/// `EINVAL` for a range that ends beyond 2^64, `ENOMEM` when no memory can be had.
pub fn prepare(file: &DirectFile, pool: &Pool, segments: &[Segment]) -> io::Result<Prepared> {
    let align = file.alignment().read_offset;
    let mut steps = Vec::with_capacity(segments.len());
    for segment in segments {
        match *segment {
            Segment::Hole { len: 0 } | Segment::Data { len: 0, .. } => {}
            Segment::Hole { len } => steps.push(Step::Zeros(len)),
            Segment::Data { offset, len } => windows(align, offset, len, pool, &mut steps)?,
        }
    }
    Ok(Prepared { steps })
}

impl Prepared {
    /// Reads in order with O_DIRECT. The pieces hold exactly what was read: at the end of the image
    /// the last one is short and those after it are missing.
    ///
    /// One segment is read by the calling thread; several are queued together.
    ///
    /// # Errors
    /// The first error of the device. All buffers are back in the pool then.
    pub fn read(self, engine: &Engine, file: &Arc<DirectFile>) -> io::Result<Vec<Piece>> {
        let data = self.steps.iter().filter(|s| matches!(s, Step::Read(..))).count();
        let steps = if data > 1 {
            read_queued(engine, file, self.steps)?
        } else {
            read_here(engine, file, self.steps)?
        };
        Ok(trim(steps))
    }
}

/// As [`prepare`] and [`Prepared::read`].
///
/// # Errors
/// Theirs.
pub fn read(
    engine: &Engine,
    file: &Arc<DirectFile>,
    pool: &Pool,
    segments: &[Segment],
) -> io::Result<Vec<Piece>> {
    prepare(file, pool, segments)?.read(engine, file)
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

/// Aligned windows of at most a slab each, with a buffer for each.
fn windows(
    align: usize,
    offset: u64,
    len: usize,
    pool: &Pool,
    steps: &mut Vec<Step>,
) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let end = offset.checked_add(len as u64).ok_or_else(invalid)?;
    let mut at = offset;
    while at < end {
        let from = (at % align as u64) as usize;
        let start = at - from as u64;
        let len = ((end - start).min(SLAB as u64)) as usize - from;
        let aligned_len = inflight_dio::align_up(from + len, align);
        let window = Window { start, aligned_len, from, len };
        steps.push(Step::Read(window, pool.try_take(aligned_len)?));
        at += len as u64;
    }
    Ok(())
}

fn read_here(engine: &Engine, file: &DirectFile, steps: Vec<Step>) -> io::Result<Vec<Step>> {
    let read = |step| match step {
        Step::Read(w, buf) => {
            let (buf, result) = engine.read_at(file, buf, w.start, w.aligned_len);
            result.map(|_| Step::Read(w, buf))
        }
        zeros @ Step::Zeros(_) => Ok(zeros),
    };
    steps.into_iter().map(read).collect()
}

fn read_queued(engine: &Engine, file: &Arc<DirectFile>, steps: Vec<Step>) -> io::Result<Vec<Step>> {
    let (tx, rx) = mpsc::channel();
    let mut requests: Vec<(Request, Done)> = Vec::new();
    let mut ready: Vec<Option<Step>> = Vec::with_capacity(steps.len());
    for (place, step) in steps.into_iter().enumerate() {
        let Step::Read(w, buf) = step else {
            ready.push(Some(step));
            continue;
        };
        ready.push(None);
        let (file, tx, len) = (Arc::clone(file), tx.clone(), w.aligned_len);
        let request = Request { file, buf, offset: w.start, len, op: Op::Read };
        // The receiver waits for every sender, so the send cannot fail.
        let done: Done = Box::new(move |c| drop(tx.send((place, w, c))));
        requests.push((request, done));
    }
    drop(tx);
    engine.submit_batch(requests);
    let mut failed = None;
    for (place, window, completion) in rx {
        match completion.result {
            Ok(_) => ready[place] = Some(Step::Read(window, completion.buf)),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    failed.map_or_else(|| Ok(ready.into_iter().flatten().collect()), Err)
}

/// Keeps what was read, up to the first shortage.
fn trim(steps: Vec<Step>) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(steps.len());
    for step in steps {
        match step {
            Step::Zeros(len) => pieces.push(Piece::Zeros { len }),
            Step::Read(w, buf) => {
                let read = buf.len().saturating_sub(w.from);
                let len = if mutant::is(Mutant::LoseTailTrim) { read } else { read.min(w.len) };
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
