//! read, in the steps between which the gate may park it.
//!
//! ```text
//! Prepared: blocks pinned, buffers taken     (nothing read)
//! Applied:  data in buffers or in pipe A     (nothing sent)
//! Ready:    bytes, or a pipe of known length (nothing sent)
//! ```
//!
//! Every step owns what it needs, so a parked read is a value in a table. Dropping any of them
//! gives buffers, pipes and pins back.

use crate::data::ReadPiece;
use crate::errno::{Errno, Error};
use crate::mutant::{self, Mutant};
use crate::ops::ways::Way;
use crate::ops::{Answer, Fs};
use crate::volume::ReadPlan;
use crate::volume::inode::Inode;
use inflight_dio::Buffer;
use inflight_splice::direct::{self, Piece};
use inflight_splice::{FillError, Filled, Filling};
use std::fs::File;
use std::sync::Arc;

/// A read.
#[derive(Clone, Copy, Debug)]
pub struct ReadArgs {
    /// File.
    pub ino: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes at most.
    pub len: usize,
    /// The opener asked for O_DIRECT.
    pub direct: bool,
    /// The answer may be spliced.
    pub splice: bool,
}

/// Blocks are pinned and buffers are taken; nothing is read.
#[derive(Debug)]
pub struct Prepared {
    inode: Arc<Inode>,
    plan: ReadPlan,
    way: Way,
    wanted: usize,
    memory: Memory,
}

/// Where the data of a read will go.
#[derive(Debug)]
enum Memory {
    /// Into a pipe.
    None,
    /// Into one buffer.
    One(Buffer),
    /// Into one buffer with O_DIRECT: `len` bytes from byte `offset` of the image on.
    Whole { buffer: Buffer, offset: u64, len: usize },
    /// Into a buffer for each run of blocks.
    Direct(direct::Prepared),
}

/// The data is read.
pub struct Applied {
    plan: ReadPlan,
    data: Data,
    way: Way,
}

enum Data {
    Buffer(Buffer),
    Pieces(Vec<Piece>),
    Filling(Filling),
    Filled(Filled),
}

/// The data is ready to be sent. The pins last until this is dropped.
pub struct Ready {
    plan: ReadPlan,
    /// What to send.
    pub body: Body,
    /// How it came.
    pub way: Way,
}

/// What a read reply carries.
pub enum Body {
    /// To be written.
    Bytes(Buffer),
    /// To be spliced.
    Pipe(Filled),
}

impl Fs {
    /// Finds and pins the blocks and chooses the way. `own` is memory that the answer needs no copy
    /// out of; it is used if the data fit and are not spliced.
    pub fn read_prepare(&self, args: &ReadArgs, own: Option<Buffer>) -> Answer<Prepared> {
        let inode = self.inode(args.ino)?;
        match inode.read().attr.mode & libc::S_IFMT {
            libc::S_IFREG => {}
            libc::S_IFDIR => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        let plan = self.volume.plan_read(&inode, args.offset, args.len)?;
        let way = self.choose(args, &plan);
        let memory = self.memory(&plan, way, own)?;
        Ok(Prepared { inode, plan, way, wanted: args.len, memory })
    }

    fn memory(&self, plan: &ReadPlan, way: Way, own: Option<Buffer>) -> Result<Memory, Error> {
        let buffer = |len: usize| match own.filter(|own| own.capacity() >= len) {
            Some(own) => Ok(own),
            None => self.io.pool().try_take(len),
        };
        match way {
            Way::Copy => Ok(Memory::One(buffer(plan.len)?)),
            Way::CopyDirect | Way::SpliceDirect => {
                if way == Way::CopyDirect
                    && let Some((offset, len)) = self.whole(plan)
                {
                    return Ok(Memory::Whole { buffer: buffer(len)?, offset, len });
                }
                Ok(Memory::Direct(self.io.prepare_direct(&plan.pieces)?.ok_or(Errno::EIO)?))
            }
            Way::SpliceBuffered | Way::PipeBacked => Ok(Memory::None),
        }
    }

    /// The one aligned read that brings the whole plan, if one does: the image offset and the length
    /// in bytes. It may end behind the last byte wanted, inside the same block.
    fn whole(&self, plan: &ReadPlan) -> Option<(u64, usize)> {
        let [ReadPiece::Data { offset, len }] = plan.pieces[..] else { return None };
        let step = self.io.direct()?.alignment().read_offset;
        offset.is_multiple_of(step as u64).then(|| (offset, len.next_multiple_of(step)))
    }
}

impl Prepared {
    /// How it will be served.
    pub fn way(&self) -> Way {
        self.way
    }

    /// Whether reading may wait for the device: there is more to bring than zeros.
    pub fn may_wait(&self) -> bool {
        self.plan.pieces.iter().any(|piece| matches!(piece, ReadPiece::Data { .. }))
    }

    /// Bytes that will be read.
    pub fn len(&self) -> usize {
        self.plan.len
    }

    /// True at the end of the file.
    pub fn is_empty(&self) -> bool {
        self.plan.len == 0
    }

    /// Reads at most `len` bytes.
    pub fn cut(mut self, fs: &Fs, len: usize) -> Answer<Prepared> {
        self.plan.cut(len);
        let own = match self.memory {
            Memory::One(buffer) | Memory::Whole { buffer, .. } => Some(buffer),
            _ => None,
        };
        self.memory = fs.memory(&self.plan, self.way, own)?;
        Ok(self)
    }

    /// Reads if all of it lies in the image's page cache, so that nothing is waited for.
    ///
    /// # Errors
    /// The read itself, when something does not, or it goes past that cache.
    #[allow(clippy::result_large_err, reason = "the read goes on, which is no error")]
    pub fn apply_resident(mut self, fs: &Fs) -> Result<Applied, Prepared> {
        let is_there = match &mut self.memory {
            Memory::One(buffer) => fs.io.read_resident(&self.plan.pieces, buffer),
            _ => false,
        };
        match self.memory {
            Memory::One(buffer) if is_there => {
                fs.accessed(&self.inode);
                Ok(Applied { plan: self.plan, data: Data::Buffer(buffer), way: self.way })
            }
            memory => Err(Prepared { memory, ..self }),
        }
    }

    /// The device's part, for whoever has it done elsewhere; [`Pending::finish`] goes on.
    ///
    /// # Errors
    /// The read itself, when it is not one read of the image.
    #[allow(clippy::result_large_err, reason = "the read goes on, which is no error")]
    pub fn into_device_read(self, fs: &Fs) -> Result<DeviceRead, Prepared> {
        let Prepared { inode, plan, way, wanted, memory } = self;
        match (memory, &plan.pieces[..], fs.io.file(), fs.io.cached_file()) {
            (Memory::Whole { buffer, offset, len }, _, Some(file), _) => {
                let pending = Pending { inode, plan, way, offset, len };
                Ok(DeviceRead { pending, buffer, file: Arc::clone(file), offset, len })
            }
            (Memory::One(buffer), &[ReadPiece::Data { offset, len }], _, Some(file)) => {
                let pending = Pending { inode, plan, way, offset, len };
                Ok(DeviceRead { pending, buffer, file: Arc::clone(file), offset, len })
            }
            (memory, ..) => Err(Prepared { inode, plan, way, wanted, memory }),
        }
    }

    /// Reads.
    pub fn apply(self, fs: &Fs) -> Answer<Applied> {
        let Prepared { inode, plan, way, wanted, memory } = self;
        let (data, way) = match fs.fetch(&plan, way, wanted, memory) {
            // A pipe that is too small, or none to be had, is no reason to fail the read.
            Err(Error::Refused(Errno::EXFULL)) => {
                let way = if way == Way::SpliceDirect { Way::CopyDirect } else { Way::Copy };
                (fs.fetch(&plan, way, wanted, fs.memory(&plan, way, None)?)?, way)
            }
            other => (other?, way),
        };
        fs.accessed(&inode);
        Ok(Applied { plan, data, way })
    }
}

/// A read that is one read of the image: aligned and past its page cache, or through it.
pub struct DeviceRead {
    /// What waits for it.
    pub pending: Pending,
    /// Where it goes: at least `len` bytes.
    pub buffer: Buffer,
    /// The image, opened for it.
    pub file: Arc<File>,
    /// Byte offset in the image.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
}

/// A read while the device works on it. Blocks stay pinned.
pub struct Pending {
    inode: Arc<Inode>,
    plan: ReadPlan,
    way: Way,
    offset: u64,
    len: usize,
}

impl Pending {
    /// Whether the device has read all that is wanted. If not, [`Pending::finish`] reads again, and waits.
    pub fn is_satisfied(&self, result: &std::io::Result<usize>) -> bool {
        matches!(result, Ok(read) if *read >= self.plan.len)
    }

    /// Goes on when the device has read `result` bytes into `buffer`.
    ///
    /// # Errors
    /// EIO for what the device said, and where the image ends too early.
    pub fn finish(
        self,
        fs: &Fs,
        mut buffer: Buffer,
        result: std::io::Result<usize>,
    ) -> Answer<Applied> {
        let mut read = result;
        if !self.is_satisfied(&read) {
            // Interrupted, or short for a reason of its own: the engine has the rules for that.
            match self.way {
                Way::Copy => {
                    fs.io.read_cached(&self.plan.pieces, &mut buffer)?;
                    read = Ok(self.plan.len);
                }
                _ => (buffer, read) = fs.io.read_whole(buffer, self.offset, self.len),
            }
        }
        let read = read.map_err(Error::Image)?;
        if read < self.plan.len {
            return Err(short_image(read, self.len).into());
        }
        buffer.truncate(self.plan.len);
        fs.accessed(&self.inode);
        Ok(Applied { plan: self.plan, data: Data::Buffer(buffer), way: self.way })
    }
}

fn short_image(read: usize, wanted: usize) -> Error {
    Error::Corrupt(format!("image ends inside a file: {read} of {wanted} bytes read"))
}

impl Fs {
    fn fetch(
        &self,
        plan: &ReadPlan,
        way: Way,
        wanted: usize,
        memory: Memory,
    ) -> Result<Data, Error> {
        match (way, memory) {
            (Way::PipeBacked, _) => self.pipe_backed(plan, wanted),
            (_, Memory::One(mut buf)) => {
                self.io.read_cached(&plan.pieces, &mut buf)?;
                Ok(Data::Buffer(buf))
            }
            (_, Memory::Whole { buffer, offset, len }) => {
                let (mut buffer, result) = self.io.read_whole(buffer, offset, len);
                let read = result?;
                if read < plan.len {
                    return Err(short_image(read, plan.len));
                }
                if !mutant::is(Mutant::LoseTailTrim) {
                    buffer.truncate(plan.len);
                }
                Ok(Data::Buffer(buffer))
            }
            (_, Memory::Direct(prepared)) => {
                let pieces = self.pieces(plan, prepared)?;
                Ok(match way {
                    Way::CopyDirect => Data::Buffer(self.gathered(pieces)),
                    _ => Data::Pieces(pieces),
                })
            }
            (_, Memory::None) => Ok(Data::Filling(self.fill_cached(plan)?)),
        }
    }

    fn pieces(&self, plan: &ReadPlan, prepared: direct::Prepared) -> Result<Vec<Piece>, Error> {
        let pieces = self.io.read_direct(prepared)?;
        let read: usize = pieces.iter().map(Piece::len).sum();
        if read != plan.len && !mutant::is(Mutant::LoseTailTrim) {
            return Err(short_image(read, plan.len));
        }
        Ok(pieces)
    }

    fn gathered(&self, pieces: Vec<Piece>) -> Buffer {
        let mut buf = self.io.pool().take(pieces.iter().map(Piece::len).sum());
        gather(pieces, &mut buf);
        buf
    }

    fn fill_cached(&self, plan: &ReadPlan) -> Result<Filling, Error> {
        let image = self.io.disk().descriptor().ok_or(Errno::EXFULL)?;
        let mut filling = self.io.pipes().begin(plan.len).map_err(full)?;
        for piece in &plan.pieces {
            match *piece {
                ReadPiece::Zeros { len } => filling.zeros(len).map_err(full)?,
                ReadPiece::Data { offset, len } => {
                    let got = filling.file(image, offset, len).map_err(full)?;
                    if got != len {
                        let text =
                            format!("image ends at byte {}, inside a file", offset + got as u64);
                        return Err(Error::Corrupt(text));
                    }
                }
            }
        }
        Ok(filling)
    }

    #[cfg(not(feature = "mutants"))]
    fn pipe_backed(&self, _plan: &ReadPlan, _wanted: usize) -> Result<Data, Error> {
        Err(Errno::EINVAL.into())
    }

    #[cfg(feature = "mutants")]
    fn pipe_backed(&self, plan: &ReadPlan, wanted: usize) -> Result<Data, Error> {
        use inflight_splice::pipe_backed::{Revert, read};
        let file = self.io.direct().ok_or(Errno::EIO)?;
        let segments: Vec<_> = plan.pieces.iter().map(crate::data::segment).collect();
        let (pipes, engine, pool) = (self.io.pipes(), self.io.engine(), self.io.pool());
        Ok(Data::Filled(read(pipes, engine, file, pool, &segments, wanted, Revert::FreeTail)?))
    }
}

/// A pipe that does not take the data is EXFULL, which [`Prepared::apply`] turns into a copy.
fn full(e: FillError) -> Error {
    match e {
        FillError::Full { .. } => Errno::EXFULL.into(),
        FillError::Io(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            Errno::EXFULL.into()
        }
        other => Error::Image(other.into()),
    }
}

fn gather(pieces: Vec<Piece>, buf: &mut Buffer) {
    buf.set_len(pieces.iter().map(Piece::len).sum());
    let mut rest = buf.as_mut_slice();
    for piece in pieces {
        let (part, tail) = rest.split_at_mut(piece.len());
        match piece {
            Piece::Data { buf, from, len } => {
                part.copy_from_slice(&buf.as_slice()[from..from + len])
            }
            Piece::Zeros { .. } => part.fill(0),
        }
        rest = tail;
    }
}

impl Applied {
    /// How the data came.
    pub fn way(&self) -> Way {
        self.way
    }

    /// Cuts the reply to `len` bytes. What was read is cut; nothing is read again.
    pub fn cut(mut self, len: usize) -> Answer<Applied> {
        self.plan.cut(len);
        self.data = match self.data {
            Data::Buffer(mut buffer) => {
                buffer.truncate(len.min(buffer.len()));
                Data::Buffer(buffer)
            }
            Data::Pieces(mut pieces) => {
                let mut left = len;
                for piece in &mut pieces {
                    piece.truncate(left);
                    left -= piece.len();
                }
                pieces.retain(|piece| !piece.is_empty());
                Data::Pieces(pieces)
            }
            Data::Filling(filling) => Data::Filled(cut_pipe(finish(filling)?, len)),
            Data::Filled(filled) => Data::Filled(cut_pipe(filled, len)),
        };
        Ok(self)
    }

    /// Puts what is in buffers into the pipe.
    pub fn pipe(self, fs: &Fs) -> Answer<Ready> {
        let Applied { plan, data, way } = self;
        let body = match data {
            Data::Buffer(buf) => Body::Bytes(buf),
            Data::Filled(filled) => Body::Pipe(filled),
            Data::Filling(filling) => Body::Pipe(finish(filling)?),
            Data::Pieces(pieces) => match fs.io.pipes().begin(plan.len) {
                Ok(filling) => fill(fs, filling, pieces, &plan)?,
                Err(_) => Body::Bytes(fs.gathered(pieces)),
            },
        };
        Ok(Ready { plan, body, way })
    }
}

fn fill(fs: &Fs, mut filling: Filling, pieces: Vec<Piece>, plan: &ReadPlan) -> Answer<Body> {
    match direct::fill(&mut filling, pieces).map_err(full) {
        Ok(()) => Ok(Body::Pipe(finish(filling)?)),
        // The pieces went with the pipe that had no room for them: they are read again.
        Err(Error::Refused(Errno::EXFULL)) => {
            drop(filling);
            let prepared = fs.io.prepare_direct(&plan.pieces)?.ok_or(Errno::EIO)?;
            Ok(Body::Bytes(fs.gathered(fs.pieces(plan, prepared)?)))
        }
        Err(e) => Err(e.into()),
    }
}

fn finish(filling: Filling) -> Answer<Filled> {
    Ok(filling.finish().map_err(|e| Error::Image(e.into()))?)
}

impl Ready {
    /// Bytes of data.
    pub fn len(&self) -> usize {
        match &self.body {
            Body::Bytes(buf) => buf.len(),
            Body::Pipe(filled) => filled.len(),
        }
    }

    /// True at the end of the file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What to send, and what has to last until it was taken.
    pub fn into_parts(self) -> (Body, ReadPlan) {
        (self.body, self.plan)
    }

    /// Cuts the reply to `len` bytes. What is in a pipe stays there and is not sent.
    #[must_use]
    pub fn cut(mut self, len: usize) -> Ready {
        self.plan.cut(len);
        match &mut self.body {
            Body::Bytes(buffer) => buffer.truncate(len.min(buffer.len())),
            Body::Pipe(filled) => filled.truncate(len),
        }
        self
    }
}

fn cut_pipe(mut filled: Filled, len: usize) -> Filled {
    filled.truncate(len);
    filled
}
