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
use crate::ops::{Answer, Fs};
use crate::options::ReadMode;
use crate::volume::ReadPlan;
use crate::volume::inode::Inode;
use inflight_dio::Buffer;
use inflight_splice::direct::{self, Piece};
use inflight_splice::{FillError, Filled, Filling};
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
}

/// The way from the image to the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Image page cache -> buffer -> /dev/fuse.
    Copy,
    /// Image -> pinned buffer with O_DIRECT -> /dev/fuse, copied.
    CopyDirect,
    /// Image page cache -> pipe -> /dev/fuse; no copy in the server.
    SpliceBuffered,
    /// Image -> pinned buffer with O_DIRECT -> pipe -> /dev/fuse; no copy in the server.
    SpliceDirect,
    /// The broken pipe-backed iterator, for tests of the tests.
    PipeBacked,
}

impl Way {
    /// The name that logs and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Way::Copy => "copy",
            Way::CopyDirect => "copy-direct",
            Way::SpliceBuffered => "splice-buffered",
            Way::SpliceDirect => "splice-direct",
            Way::PipeBacked => "pipe-backed",
        }
    }
}

/// Replies up to this size are copied: two splices and a pipe cost more than the copy. Into
/// /dev/null (the `overhead` example of inflight-splice) 4 KiB took 0.6 us copied and 1.7 us
/// spliced, 64 KiB 2.3 and 2.7 us, 128 KiB 4.1 and 3.7 us. Not yet measured into /dev/fuse.
const COPY_MAX: usize = 32 << 10;

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
    /// Finds and pins the blocks and chooses the way.
    pub fn read_prepare(&self, args: &ReadArgs) -> Answer<Prepared> {
        let inode = self.inode(args.ino)?;
        match inode.read().attr.mode & libc::S_IFMT {
            libc::S_IFREG => {}
            libc::S_IFDIR => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        let plan = self.volume.plan_read(&inode, args.offset, args.len)?;
        let way = self.choose(args, plan.len);
        let memory = self.memory(&plan, way)?;
        Ok(Prepared { inode, plan, way, wanted: args.len, memory })
    }

    fn memory(&self, plan: &ReadPlan, way: Way) -> Result<Memory, Error> {
        match way {
            Way::Copy => Ok(Memory::One(self.io.pool().take(plan.len))),
            Way::CopyDirect | Way::SpliceDirect => {
                Ok(Memory::Direct(self.io.prepare_direct(&plan.pieces)?.ok_or(Errno::EIO)?))
            }
            Way::SpliceBuffered | Way::PipeBacked => Ok(Memory::None),
        }
    }

    fn choose(&self, args: &ReadArgs, len: usize) -> Way {
        let direct = match self.options.read {
            ReadMode::Copy => return Way::Copy,
            ReadMode::PipeBacked => return Way::PipeBacked,
            ReadMode::Auto => args.direct,
            ReadMode::Direct => true,
            ReadMode::Buffered => false,
        } && self.io.has_direct();
        let forced = self.options.read != ReadMode::Auto;
        let splices = self.options.splices && self.io.has_splice();
        let fits = len <= self.io.pipes().max_payload() && splices;
        match (direct, fits && len > 0 && (forced || len > COPY_MAX)) {
            (true, true) => Way::SpliceDirect,
            (true, false) => Way::CopyDirect,
            (false, true) => Way::SpliceBuffered,
            (false, false) => Way::Copy,
        }
    }
}

impl Prepared {
    /// How it will be served.
    pub fn way(&self) -> Way {
        self.way
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
        self.memory = fs.memory(&self.plan, self.way)?;
        Ok(self)
    }

    /// Reads.
    pub fn apply(self, fs: &Fs) -> Answer<Applied> {
        let Prepared { inode, plan, way, wanted, memory } = self;
        let (data, way) = match fs.fetch(&plan, way, wanted, memory) {
            // A pipe that is too small, or none to be had, is no reason to fail the read.
            Err(Error::Refused(Errno::EXFULL)) => {
                let way = if way == Way::SpliceDirect { Way::CopyDirect } else { Way::Copy };
                (fs.fetch(&plan, way, wanted, fs.memory(&plan, way)?)?, way)
            }
            other => (other?, way),
        };
        fs.accessed(&inode);
        Ok(Applied { plan, data, way })
    }
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
            let text = format!("image ends inside a file: {read} of {} bytes read", plan.len);
            return Err(Error::Corrupt(text));
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

    /// Cuts the reply to `len` bytes. What is in a pipe cannot be cut, so it is read again.
    pub fn cut(mut self, fs: &Fs, len: usize) -> Answer<Applied> {
        self.plan.cut(len);
        match &mut self.data {
            Data::Buffer(buf) => buf.truncate(len.min(buf.len())),
            _ => {
                let memory = fs.memory(&self.plan, self.way)?;
                self.data = fs.fetch(&self.plan, self.way, len, memory)?;
            }
        }
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

    /// Cuts the reply to `len` bytes.
    pub fn cut(self, fs: &Fs, len: usize) -> Answer<Ready> {
        let Ready { plan, body, way } = self;
        let data = match body {
            Body::Bytes(buf) => Data::Buffer(buf),
            Body::Pipe(filled) => Data::Filled(filled),
        };
        Applied { plan, data, way }.cut(fs, len)?.pipe(fs)
    }
}
