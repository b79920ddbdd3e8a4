//! What is legal after each action: explicit sets, listed and not computed.

use nix::errno::Errno;

use super::Cell;
use super::action::{Action, INSIDE_AT, STORE_AT, STORED};
use super::buffer::{Kind, SPACE};
use super::io::Call;
use crate::fixture::Stamped;
use crate::kit::engine::{Done, Way};
use crate::kit::stamp::{self, Legal, POISON};

/// Bytes that are punched or zeroed: the first half.
pub const HALF: usize = SPACE / 2;
/// Bytes by which a file is extended.
pub const GROWTH: usize = 8192;

/// What memory of a kind holds before a read: every byte of it.
pub fn untouched(kind: Kind) -> u8 {
    if kind == Kind::Zero { 0 } else { POISON }
}

/// What a write finds in its memory.
pub fn source(cell: &Cell, file: &Stamped) -> Legal {
    if cell.kind == Kind::Zero { Legal::Zero } else { file.generation(2) }
}

/// What the `len` bytes may be that a read brought, in pieces.
pub fn read(cell: &Cell, file: &Stamped, race: bool, len: usize) -> Vec<Piece> {
    let old = vec![file.generation(1)];
    let gone = vec![file.generation(1), Legal::Zero];
    match cell.action {
        Action::Cut | Action::CutGrow if race => pieces(&[(0, len, &gone)]),
        Action::Punch | Action::Zero if race => pieces(&[(0, HALF, &gone), (HALF, len, &old)]),
        _ => pieces(&[(0, len, &old)]),
    }
}

/// Whether an I/O may return less than it was asked for: the file was shorter for a while.
pub fn may_be_short(cell: &Cell, race: bool) -> bool {
    race && cell.op.way == Way::Read && matches!(cell.action, Action::Cut | Action::CutGrow)
}

/// Whether an error is what an I/O must end in (abort), or may (a mapping whose file was cut).
pub fn is_due(cell: &Cell, race: bool, done: Done) -> Option<bool> {
    let Err(errno) = done else { return (race && cell.action == Action::Abort).then_some(false) };
    if !race {
        return None;
    }
    match cell.action {
        Action::Abort => {
            let aborted = [Errno::ECONNABORTED, Errno::ENOTCONN, Errno::EIO].contains(&errno);
            Some(aborted || (cell.op.call == Call::Fault && errno == Errno::EFAULT))
        }
        Action::Cut | Action::CutGrow if cell.op.call == Call::Fault => {
            Some(errno == Errno::EFAULT)
        }
        _ => None,
    }
}

/// A piece of the file: from where to where, and what it may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First byte.
    pub from: usize,
    /// The byte behind its last.
    pub to: usize,
    /// Its contents.
    pub legal: Vec<Legal>,
}

/// What the file may be when all is over: its sizes, and its pieces as far as it reaches. `len` bytes were written at
/// `offset`, where it was a write.
pub fn file(
    cell: &Cell,
    file: &Stamped,
    race: bool,
    offset: usize,
    len: usize,
) -> (Vec<usize>, Vec<Piece>) {
    let (whole, is_write) = (file.len as usize, cell.op.way == Way::Write);
    let end = whole.max(if is_write { offset + len } else { 0 });
    // Only the transferred part is looked at where a mapping of the file is the memory.
    let upto = if cell.kind == Kind::SelfMap { SPACE } else { end };
    let old = vec![file.generation(1)];
    let mut new = if is_write { vec![source(cell, file)] } else { old.clone() };
    let written = if is_write { offset..offset + len } else { 0..0 };
    if !race {
        return (
            vec![end],
            pieces(&[
                (0, written.start, &old),
                (written.start, written.end, &new),
                (written.end, upto, &old),
            ]),
        );
    }
    let zero = vec![Legal::Zero];
    // What a call left in the page cache before the change began is changed with the rest.
    let gone = |new: &Vec<Legal>| match (is_write, cell.op.is_written_back()) {
        (true, false) => [new.clone(), zero.clone()].concat(),
        _ => zero.clone(),
    };
    match cell.action {
        Action::Cut => {
            let sizes = if is_write && !cell.op.is_written_back() { vec![0, len] } else { vec![0] };
            (sizes, pieces(&[(0, len, &new)]))
        }
        Action::CutGrow => {
            (vec![whole], pieces(&[(0, written.end, &gone(&new)), (written.end, upto, &zero)]))
        }
        Action::Punch | Action::Zero => {
            let (first, middle) = (gone(&new), written.end.max(HALF));
            (vec![end], pieces(&[(0, HALF, &first), (HALF, middle, &new), (middle, upto, &old)]))
        }
        Action::Grow => {
            let tail = (end, end + GROWTH, &zero);
            let tail = if cell.kind == Kind::SelfMap { (0, 0, &zero) } else { tail };
            let (from, to) = (written.start, written.end);
            (
                vec![end + GROWTH],
                pieces(&[(0, from, &old), (from, to, &new), (to, upto, &old), tail]),
            )
        }
        _ => {
            if cell.action == Action::Store && cell.op.is_direct() {
                new.push(file.generation(3));
            }
            if cell.action.ends_process() {
                new.push(file.generation(1));
            }
            let (from, to) = (written.start, written.end);
            (vec![end], pieces(&[(0, from, &old), (from, to, &new), (to, upto, &old)]))
        }
    }
}

fn pieces(parts: &[(usize, usize, &Vec<Legal>)]) -> Vec<Piece> {
    let piece =
        |&(from, to, legal): &(usize, usize, &Vec<Legal>)| Piece { from, to, legal: legal.clone() };
    parts.iter().filter(|part| part.0 < part.1).map(piece).collect()
}

/// Puts what a read may have left of a byte that a program stored meanwhile to what the read brings: such a byte
/// is either's.
pub fn forgive_stores(cell: &Cell, bytes: &mut [u8], pieces: &[Piece]) {
    if !cell.action.stores() {
        return;
    }
    for at in [INSIDE_AT, STORE_AT] {
        let Some(byte) = bytes.get_mut(at).filter(|byte| **byte == STORED) else { continue };
        let piece = pieces.iter().find(|piece| (piece.from..piece.to).contains(&at));
        if let Some(Legal::Generation(id, generation)) = piece.and_then(|piece| piece.legal.first())
        {
            *byte = stamp::content(*id, *generation, at as u64, 1)[0];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Open;
    use crate::kit::engine::Engine;
    use crate::matrix::io::Op;
    use inflight_gate::Phase;

    #[test]
    fn a_read_beside_a_hole_has_zeroes_in_the_hole_only() {
        let call = Call::Engine(Engine::Uring);
        let op = Op { way: Way::Read, call, open: Open::Direct };
        let file = Stamped { path: "f".into(), id: 7, len: SPACE as u64 };
        let legal = |action, race| {
            let cell = Cell { action, op, kind: Kind::Anon, phase: Phase::Received };
            let zero = |piece: &Piece| piece.legal.contains(&Legal::Zero);
            read(&cell, &file, race, SPACE)
                .iter()
                .map(|p| (p.from, p.to, zero(p)))
                .collect::<Vec<_>>()
        };
        for action in [Action::Punch, Action::Zero] {
            assert_eq!(legal(action, true), [(0, HALF, true), (HALF, SPACE, false)]);
            assert_eq!(legal(action, false), [(0, SPACE, false)]);
        }
        assert_eq!(legal(Action::Cut, true), [(0, SPACE, true)]);
        assert_eq!(legal(Action::Store, true), [(0, SPACE, false)]);
    }
}
