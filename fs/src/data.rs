//! File bytes between the server's memory and the image: through the image's page cache, or with
//! O_DIRECT through pinned buffers. Which bytes are whose is decided above.

use crate::disk::Disk;
use crate::errno::{Errno, Result};
use crate::mutant::{self, Mutant};
use inflight_dio::iter::IoIter;
use inflight_dio::{Buffer, DirectError, DirectFile, Engine, Part, Pool, cached_pages, page_size};
use inflight_splice::PipePool;
use inflight_splice::direct::{self, Piece, Segment};
use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::Arc;

/// A contiguous part of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPiece {
    /// In the image.
    Data {
        /// Byte offset in the image.
        offset: u64,
        /// Bytes.
        len: usize,
    },
    /// A hole, or blocks that were never written.
    Zeros {
        /// Bytes.
        len: usize,
    },
}

impl ReadPiece {
    /// Bytes.
    pub fn len(&self) -> usize {
        match self {
            ReadPiece::Data { len, .. } | ReadPiece::Zeros { len } => *len,
        }
    }

    /// True for a piece of no bytes, which no plan has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Everything that moves data.
pub struct ImageIo {
    disk: Arc<dyn Disk>,
    direct: Option<Arc<DirectFile>>,
    /// The same open file, for a ring.
    file: Option<Arc<File>>,
    /// The image through its page cache, for a ring.
    cached: Option<Arc<File>>,
    engine: Engine,
    pool: Pool,
    pipes: PipePool,
}

impl ImageIo {
    /// Data paths to `device`. Where O_DIRECT is refused the page cache serves everything, and
    /// one line says so.
    pub fn new(disk: Arc<dyn Disk>, pool: Pool, pipes: PipePool) -> std::io::Result<ImageIo> {
        let direct = disk.descriptor().map(DirectFile::reopen).and_then(|opened| {
            let warn = |e: &DirectError| {
                tracing::warn!("{}: no direct I/O to the image: {e}", disk.name().display());
            };
            opened.inspect_err(warn).ok().map(Arc::new)
        });
        let file = direct.as_ref().map(|direct| direct.file().try_clone()).transpose()?;
        let cached = disk.descriptor().map(|fd| fd.try_clone_to_owned()).transpose()?;
        let cached = cached.map(|fd| Arc::new(File::from(fd)));
        let engine = Engine::new(&pool)?;
        Ok(ImageIo { disk, direct, file: file.map(Arc::new), cached, engine, pool, pipes })
    }

    /// The buffers.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The pipes.
    pub fn pipes(&self) -> &PipePool {
        &self.pipes
    }

    /// The direct engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The image.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// True when the image can be spliced from.
    pub fn has_splice(&self) -> bool {
        self.disk.descriptor().is_some()
    }

    /// True when the image takes O_DIRECT.
    pub fn has_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// The image, opened for O_DIRECT.
    pub fn direct(&self) -> Option<&Arc<DirectFile>> {
        self.direct.as_ref()
    }

    /// The image, opened for O_DIRECT, for a ring.
    pub fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }

    /// The image, opened for its page cache, for a ring.
    pub fn cached_file(&self) -> Option<&Arc<File>> {
        self.cached.as_ref()
    }

    /// Whether most of `pieces` is in the image's page cache, so that a direct read would be the slower
    /// one. Where the kernel does not tell (before Linux 6.5) it is.
    pub fn is_cached(&self, pieces: &[ReadPiece]) -> bool {
        let Some(image) = self.disk.descriptor() else { return true };
        let mut pages = (0, 0);
        for piece in pieces {
            if let ReadPiece::Data { offset, len } = *piece {
                let Ok(cached) = cached_pages(image, offset, len as u64) else { return true };
                pages = (pages.0 + cached, pages.1 + (len as u64).div_ceil(page_size() as u64));
            }
        }
        2 * pages.0 >= pages.1
    }

    /// Reads `pieces` into the start of `buf` if the image's page cache has all of them: nothing is waited for (RWF_NOWAIT of
    /// preadv2(2)). What was copied before something was missing is worth nothing.
    pub fn read_resident(&self, pieces: &[ReadPiece], buf: &mut Buffer) -> bool {
        let flags = rustix::io::ReadWriteFlags::NOWAIT;
        let image = self.cached.as_ref();
        gather(pieces, buf, |offset, part| {
            let len = part.len();
            let mut memory = [IoSliceMut::new(part)];
            image
                .is_some_and(|i| rustix::io::preadv2(i, &mut memory, offset, flags) == Ok(len))
                .then_some(())
                .ok_or(())
        })
        .is_ok()
    }

    /// Reads `pieces` through the page cache, one after the other, into the start of `buf`.
    pub fn read_cached(&self, pieces: &[ReadPiece], buf: &mut Buffer) -> Result<()> {
        gather(pieces, buf, |offset, part| Ok(self.disk.read(offset, part)?))
    }

    /// Takes pinned buffers for a read of `pieces` with O_DIRECT; `None` when the image does not
    /// take it.
    pub fn prepare_direct(&self, pieces: &[ReadPiece]) -> Result<Option<direct::Prepared>> {
        let Some(file) = &self.direct else { return Ok(None) };
        let segments: Vec<Segment> = pieces.iter().map(segment).collect();
        Ok(Some(direct::prepare(file, &self.pool, &segments)?))
    }

    /// Reads into the buffers that were taken.
    pub fn read_direct(&self, prepared: direct::Prepared) -> Result<Vec<Piece>> {
        let file = self.direct.as_ref().ok_or(Errno::EIO)?;
        Ok(prepared.read(&self.engine, file)?)
    }

    /// Reads `len` bytes, aligned, with O_DIRECT into the start of `buffer`.
    pub fn read_whole(
        &self,
        buffer: Buffer,
        offset: u64,
        len: usize,
    ) -> (Buffer, std::io::Result<usize>) {
        match &self.direct {
            Some(file) => self.engine.read_at(file, buffer, offset, len),
            None => (buffer, Err(Errno::EIO.into())),
        }
    }

    /// Writes through the page cache.
    pub fn write_cached(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        Ok(self.disk.write(offset, bytes)?)
    }

    /// Writes with O_DIRECT what is aligned, and the edges through the page cache, which merges
    /// them with the rest of their blocks; the caller holds the range.
    pub fn write_direct(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let Some(file) = &self.direct else { return self.write_cached(offset, bytes) };
        let step = file.alignment().offset as u64;
        let (from, to) =
            (offset.next_multiple_of(step), (offset + bytes.len() as u64) / step * step);
        if from >= to {
            return self.write_cached(offset, bytes);
        }
        let (head, rest) = bytes.split_at((from - offset) as usize);
        let (middle, tail) = rest.split_at((to - from) as usize);
        if !head.is_empty() {
            self.write_cached(offset, head)?;
        }
        let done = if (middle.as_ptr() as usize).is_multiple_of(file.alignment().memory) {
            // Memory of ours that lies right: borrowed for the call, not copied.
            self.engine.write_iter(file, &mut IoIter::kvec([middle]), from)?
        } else {
            let mut buf = self.pool.take(middle.len());
            buf.set_len(middle.len());
            IoIter::kvec([middle]).copy_to(buf.as_mut_slice());
            let pages = [Part { buf, from: 0, len: middle.len() }];
            self.engine.write_iter(file, &mut IoIter::bvec_source(&pages), from)?
        };
        if done != middle.len() {
            return Err(Errno::EIO.into());
        }
        if !tail.is_empty() {
            self.write_cached(to, tail)?;
        }
        Ok(())
    }

    /// Writes zeros over a range of the image that is smaller than a block or two.
    pub fn zero(&self, range: Range<u64>) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut at = range.start;
        while at < range.end {
            let n = (range.end - at).min(ZEROS.len() as u64);
            self.disk.write(at, &ZEROS[..n as usize])?;
            at += n;
        }
        Ok(())
    }
}

/// Fills the start of `buf` piece by piece: with what `read` brings from a byte of the image on, and with zeros.
fn gather<E>(
    pieces: &[ReadPiece],
    buf: &mut Buffer,
    mut read: impl FnMut(u64, &mut [u8]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    buf.set_len(pieces.iter().map(ReadPiece::len).sum());
    let mut rest = buf.as_mut_slice();
    for piece in pieces {
        let (part, tail) = rest.split_at_mut(piece.len());
        match piece {
            ReadPiece::Data { offset, .. } => read(*offset, part)?,
            ReadPiece::Zeros { .. } if mutant::is(Mutant::SkipHoleZero) => {}
            ReadPiece::Zeros { .. } => part.fill(0),
        }
        rest = tail;
    }
    Ok(())
}

/// A piece of a read plan in the terms of the splice crate.
pub fn segment(piece: &ReadPiece) -> Segment {
    match *piece {
        ReadPiece::Data { offset, len } => Segment::Data { offset, len },
        ReadPiece::Zeros { len } => Segment::Hole { len },
    }
}
