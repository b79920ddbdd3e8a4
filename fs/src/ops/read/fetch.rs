//! How the data come from the image into memory or a pipe.

use super::Memory;
use super::device::short_image;
use super::ready::{Data, full};
use crate::data::ReadPiece;
use crate::errno::{Errno, Error};
use crate::mutant::{self, Mutant};
use crate::ops::Fs;
use crate::ops::ways::Way;
use crate::volume::ReadPlan;
use inflight_dio::Buffer;
use inflight_splice::Filling;
use inflight_splice::direct::{self, Piece};

impl Fs {
    pub(super) fn fetch(
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

    pub(super) fn pieces(
        &self,
        plan: &ReadPlan,
        prepared: direct::Prepared,
    ) -> Result<Vec<Piece>, Error> {
        let pieces = self.io.read_direct(prepared)?;
        let read: usize = pieces.iter().map(Piece::len).sum();
        if read != plan.len && !mutant::is(Mutant::LoseTailTrim) {
            return Err(short_image(read, plan.len));
        }
        Ok(pieces)
    }

    pub(super) fn gathered(&self, pieces: Vec<Piece>) -> Buffer {
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
