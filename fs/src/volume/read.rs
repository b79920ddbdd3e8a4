//! Where the bytes of a read are.

use crate::data::ReadPiece;
use crate::errno::Result;
use crate::image::BLOCK;
use crate::image::pins::{Pin, Run};
use crate::mutant::{self, Mutant};
use crate::volume::Volume;
use crate::volume::inode::{Inode, State};

/// A read with its blocks pinned: whatever happens to the file meanwhile, the blocks are given to
/// nobody else until this is dropped.
#[derive(Debug)]
pub struct ReadPlan {
    /// The parts, in order.
    pub pieces: Vec<ReadPiece>,
    /// Bytes in all parts; less than was asked for at the end of the file.
    pub len: usize,
    _pin: Pin,
}

impl ReadPlan {
    /// Cuts the plan to its first `len` bytes.
    pub fn cut(&mut self, len: usize) {
        let mut rest = len.min(self.len);
        self.len = rest;
        for piece in &mut self.pieces {
            let (ReadPiece::Data { len, .. } | ReadPiece::Zeros { len }) = piece;
            *len = (*len).min(rest);
            rest -= *len;
        }
        self.pieces.retain(|p| !p.is_empty());
    }
}

impl Volume {
    /// Plans to read up to `len` bytes at `offset`; less at the end of the file, none beyond it.
    pub fn plan_read(&self, inode: &Inode, offset: u64, len: usize) -> Result<ReadPlan> {
        self.load_extents(inode)?;
        let st = inode.read();
        let end = st.attr.size.min(offset.saturating_add(len as u64));
        let pieces = if offset < end { read_pieces(&st, offset, end) } else { Vec::new() };
        let runs = pieces.iter().filter_map(|p| match *p {
            _ if mutant::is(Mutant::SkipBlockPin) => None,
            ReadPiece::Data { offset, len } => {
                let start = offset / BLOCK;
                Some(Run { start, blocks: (offset + len as u64).div_ceil(BLOCK) - start })
            }
            ReadPiece::Zeros { .. } => None,
        });
        // The state is still locked, so nobody can have freed the blocks before they are pinned.
        let pin = self.store().space().pins().pin(runs.collect());
        Ok(ReadPlan { len: end.saturating_sub(offset) as usize, pieces, _pin: pin })
    }
}

fn read_pieces(st: &State, offset: u64, end: u64) -> Vec<ReadPiece> {
    let Some(extents) = &st.extents else { return Vec::new() };
    let mut pieces: Vec<ReadPiece> = Vec::new();
    for piece in extents.pieces(offset / BLOCK, end.div_ceil(BLOCK)) {
        let from = offset.max(piece.logical * BLOCK);
        let len = (end.min((piece.logical + piece.blocks) * BLOCK) - from) as usize;
        let next = match piece.written() {
            Some(e) => {
                let offset = e.start * BLOCK + (from - piece.logical * BLOCK);
                ReadPiece::Data { offset, len }
            }
            None => ReadPiece::Zeros { len },
        };
        match (pieces.last_mut(), next) {
            (Some(ReadPiece::Zeros { len }), ReadPiece::Zeros { len: more }) => *len += more,
            (Some(ReadPiece::Data { offset, len }), ReadPiece::Data { offset: at, len: more })
                if *offset + *len as u64 == at =>
            {
                *len += more
            }
            _ => pieces.push(next),
        }
    }
    pieces
}
