//! What is legal after each action: explicit sets, listed and not computed.

use nix::errno::Errno;

use super::Cell;
use super::action::{Action, INSIDE_AT, STORE_AT, STORED};
use super::buffer::{Kind, SPACE};
use super::io::Call;
use crate::fixture::{Order, Stamped};
use crate::kit::engine::{Done, Way};
use crate::kit::stamp::{self, Legal, POISON};

/// Bytes that are punched or zeroed: the first half.
pub const HALF: usize = SPACE / 2;
/// Generation of what another write puts into that half.
pub const OVER: u32 = 4;
/// Bytes by which a file is extended.
pub const GROWTH: usize = 8192;

/// What memory of a kind holds before a read: every byte of it.
pub fn untouched(kind: Kind) -> u8 {
    if kind == Kind::Zero { 0 } else { POISON }
}

/// What a write finds in its memory.
pub fn source(cell: &Cell, file: &Stamped) -> Legal {
    if cell.kind == Kind::Zero { file.hole() } else { file.generation(2) }
}

/// What the `len` bytes may be that a read brought, in pieces.
pub fn read(cell: &Cell, file: &Stamped, race: bool, order: Order, len: usize) -> Vec<Piece> {
    let old = vec![file.generation(1)];
    let gone = match order {
        Order::ChangeFirst => vec![file.hole()],
        Order::IoFirst => old.clone(),
        Order::Either => vec![file.generation(1), file.hole()],
    };
    match cell.action {
        Action::Cut | Action::CutGrow if race => pieces(&[(0, len, &gone)]),
        Action::Punch | Action::Zero if race => pieces(&[(0, HALF, &gone), (HALF, len, &old)]),
        Action::Overwrite if race => {
            let either = vec![file.generation(1), file.generation(OVER)];
            pieces(&[(0, HALF, &either), (HALF, len, &old)])
        }
        _ => pieces(&[(0, len, &old)]),
    }
}

/// Whether an I/O may return less than it was asked for: the file was shorter for a while.
pub fn may_be_short(cell: &Cell, race: bool, order: Order) -> bool {
    race && order != Order::IoFirst
        && cell.op.way == Way::Read
        && matches!(cell.action, Action::Cut | Action::CutGrow)
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
        Action::Cancel => Some(matches!(errno, Errno::ECANCELED | Errno::EINTR)),
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
    order: Order,
    offset: usize,
    len: usize,
) -> (Vec<usize>, Vec<Piece>) {
    let (whole, is_write) = (file.len as usize, cell.op.way == Way::Write);
    let end = whole.max(if is_write { offset + len } else { 0 });
    // Only the transferred part is looked at where a mapping of the file is the memory, unless that is cut off, too.
    let is_cut = race && cell.action == Action::CutGrow;
    let upto = if cell.kind == Kind::SelfMap && !is_cut { SPACE } else { end };
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
    let zero = vec![file.hole()];
    // What a call left in the page cache before the change began is changed with the rest.
    let is_later = is_write && !cell.op.is_written_back();
    let gone = |new: &Vec<Legal>| match order {
        _ if !is_later => zero.clone(),
        Order::ChangeFirst => new.clone(),
        Order::IoFirst => zero.clone(),
        Order::Either => [new.clone(), zero.clone()].concat(),
    };
    match cell.action {
        Action::Cut => {
            let sizes = match order {
                _ if !is_later => vec![0],
                Order::ChangeFirst => vec![offset + len],
                Order::IoFirst => vec![0],
                Order::Either => vec![0, offset + len],
            };
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
        Action::Overwrite => {
            let mut first = vec![file.generation(OVER)];
            if is_write {
                first.extend(&new);
            }
            let (from, to) = (written.start.max(HALF), written.end.max(HALF));
            (
                vec![end],
                pieces(&[
                    (0, HALF, &first),
                    (HALF, from, &old),
                    (from, to, &new),
                    (to, upto, &old),
                ]),
            )
        }
        _ => {
            if cell.action == Action::Store && cell.op.is_direct() {
                new.push(file.generation(3));
            }
            if cell.action.ends_process() || cell.action == Action::Cancel {
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
            let zero = |piece: &Piece| piece.legal.contains(&file.hole());
            read(&cell, &file, race, Order::Either, SPACE)
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

    fn cell(way: Way, action: Action) -> Cell {
        let op = Op { way, call: Call::Engine(Engine::Uring), open: Open::Direct };
        Cell { action, op, kind: Kind::Anon, phase: Phase::Received }
    }

    #[test]
    fn the_order_of_the_log_decides_what_is_legal_for_all_four_changes() {
        let target = Stamped { path: "f".into(), id: 7, len: SPACE as u64 };
        let (old, new, hole) = (target.generation(1), target.generation(2), target.hole());
        for action in [Action::Cut, Action::CutGrow, Action::Punch, Action::Zero] {
            let wrote = |order| {
                let (sizes, pieces) =
                    file(&cell(Way::Write, action), &target, true, order, 0, SPACE);
                (sizes, pieces[0].legal.clone())
            };
            let came = |order| {
                read(&cell(Way::Read, action), &target, true, order, SPACE)[0].legal.clone()
            };
            assert_eq!(wrote(Order::ChangeFirst).1, [new], "{action:?}");
            if action == Action::Cut {
                assert_eq!(wrote(Order::ChangeFirst).0, [SPACE]);
                assert_eq!(wrote(Order::IoFirst).0, [0]);
                assert_eq!(wrote(Order::Either).0, [0, SPACE]);
            } else {
                assert_eq!(wrote(Order::IoFirst).1, [hole], "{action:?}");
                assert_eq!(wrote(Order::Either).1, [new, hole], "{action:?}");
            }
            assert_eq!(came(Order::ChangeFirst), [hole], "{action:?}");
            assert_eq!(came(Order::IoFirst), [old], "{action:?}");
            assert_eq!(came(Order::Either), [old, hole], "{action:?}");
        }
        assert!(!may_be_short(&cell(Way::Read, Action::Cut), true, Order::IoFirst));
        assert!(may_be_short(&cell(Way::Read, Action::Cut), true, Order::ChangeFirst));
    }

    #[test]
    fn of_two_writes_each_block_is_of_one_and_what_was_cancelled_may_be_old() {
        let target = Stamped { path: "f".into(), id: 7, len: SPACE as u64 };
        let (old, new, over) =
            (target.generation(1), target.generation(2), target.generation(OVER));
        let after = |way, action| {
            let cell = cell(way, action);
            let (sizes, pieces) = file(&cell, &target, true, Order::Either, 0, SPACE);
            assert_eq!(sizes, [SPACE]);
            pieces.into_iter().map(|piece| (piece.from, piece.to, piece.legal)).collect::<Vec<_>>()
        };
        let second = (HALF, SPACE, vec![new]);
        assert_eq!(
            after(Way::Write, Action::Overwrite),
            [(0, HALF, vec![over, new]), second.clone()]
        );
        assert_eq!(
            after(Way::Read, Action::Overwrite),
            [(0, HALF, vec![over]), (HALF, SPACE, vec![old])]
        );
        assert_eq!(after(Way::Write, Action::Cancel), [(0, SPACE, vec![new, old])]);
        assert_eq!(after(Way::Write, Action::Fsync), [(0, SPACE, vec![new])]);
        let ends = |action, errno| is_due(&cell(Way::Read, action), true, Err(errno));
        assert_eq!(ends(Action::Cancel, Errno::ECANCELED), Some(true));
        assert_eq!(ends(Action::Cancel, Errno::EIO), Some(false));
        assert_eq!(ends(Action::Fsync, Errno::EINTR), None);
    }

    #[test]
    fn a_mapping_of_the_file_that_was_cut_off_is_judged_with_the_file() {
        let target = Stamped { path: "f".into(), id: 7, len: 2 * SPACE as u64 };
        let upto = |action| {
            let cell = Cell { kind: Kind::SelfMap, ..cell(Way::Read, action) };
            let (_, pieces) = file(&cell, &target, true, Order::Either, 0, SPACE);
            pieces.iter().map(|piece| piece.to).max()
        };
        assert_eq!(upto(Action::CutGrow), Some(2 * SPACE));
        assert_eq!(upto(Action::Grow), Some(SPACE));
    }
}
