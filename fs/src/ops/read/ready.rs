//! What was read, and how it is sent.

use crate::errno::{Errno, Error};
use crate::ops::ways::Way;
use crate::ops::{Answer, Fs};
use crate::volume::ReadPlan;
use inflight_dio::Buffer;
use inflight_splice::direct::{self, Piece};
use inflight_splice::{FillError, Filled, Filling};

/// The data is read.
pub struct Applied {
    pub(super) plan: ReadPlan,
    pub(super) data: Data,
    pub(super) way: Way,
}

pub(super) enum Data {
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

/// A pipe that does not take the data is EXFULL, which [`Prepared::apply`](super::Prepared::apply) turns into a copy.
pub(super) fn full(e: FillError) -> Error {
    match e {
        FillError::Full { .. } => Errno::EXFULL.into(),
        FillError::Io(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            Errno::EXFULL.into()
        }
        other => Error::Image(other.into()),
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
