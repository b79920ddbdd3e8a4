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

mod device;
mod fetch;
mod ready;

pub use device::{DeviceRead, Pending};
pub use ready::{Applied, Body, Ready};

use crate::data::ReadPiece;
use crate::errno::{Errno, Error};
use crate::ops::ways::Way;
use crate::ops::{Answer, Fs};
use crate::volume::ReadPlan;
use crate::volume::inode::Inode;
use inflight_dio::Buffer;
use inflight_splice::direct;
use ready::Data;
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
