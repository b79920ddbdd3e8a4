//! One lane's calls, each held against the oracle.

use std::fs::File;

use nix::errno::Errno;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::board::{Board, Found};
use super::driver::PARTS;
use super::lane::Way;
use super::oracle::{PART, Reading};
use super::readers::{Got, Reader};
use super::writers::Writer;
use crate::kit::engine::Done;
use crate::kit::verdict::{Class, Fault, not_run};

/// An I/O lane or what a control has of it.
pub(super) enum Hand {
    Reader(Reader),
    Writer(Writer),
}

impl Hand {
    pub(super) fn new(way: Way, file: File) -> anyhow::Result<Hand> {
        let len = PARTS * PART;
        Ok(if way.writes() {
            Hand::Writer(Writer::new(way, file, len)?)
        } else {
            Hand::Reader(Reader::new(way, file, len)?)
        })
    }

    /// One call, judged; gives what it was for people.
    pub(super) fn play(
        &mut self,
        board: &Board,
        way: Way,
        part: usize,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<String> {
        let at = part * PART;
        match self {
            Hand::Writer(writer) => {
                let reading = board.oracle.read();
                let (open, bytes) = board.oracle.write(part, way.manner());
                let done = writer.write(part, &bytes);
                board.oracle.end(open, matches!(done, Ok(Ok(PART))));
                let done = done?;
                if let Err(errno @ (Errno::ENOSPC | Errno::EDQUOT)) = done {
                    return Err(not_run(format!("the target is full: {errno}")));
                }
                let excused = is_excused(board, way, reading, &done);
                if let Some(fault) = wrong(way, at, &done).filter(|_| !excused) {
                    board.report(Found::fault(way.name(), part, fault));
                }
                Ok(format!("{} {at}+{PART} -> {}", way.name(), count(&done)))
            }
            Hand::Reader(reader) => {
                let half = matches!(way, Way::Uring | Way::Aio) && rng.random_bool(0.5);
                let len = if half { PART / 2 } else { PART };
                let reading = board.oracle.read();
                let got = reader.read(part, len)?;
                let done = got.as_ref().map(Vec::len).map_err(|errno| *errno);
                look(board, way, part, reading, got, len);
                Ok(format!("{} {at}+{len} -> {}", way.name(), count(&done)))
            }
        }
    }
}

fn count(done: &Done) -> String {
    done.map_or_else(|errno| format!("{errno:?}"), |count| count.to_string())
}

/// What is wrong with the count of a write, if anything is.
fn wrong(way: Way, at: usize, done: &Done) -> Option<Fault> {
    let what = way.name();
    let (class, returned) = match done {
        Ok(PART) => return None,
        Ok(count) => (Class::Short, count.to_string()),
        Err(errno) => (Class::Errno, errno.to_string()),
    };
    let text = format!("{what} at byte {at}: returned {returned}, must be {PART}");
    Some(Fault { class, text })
}

/// Whether what a call returned is no harm: see the [oracle](super::oracle).
fn is_excused(board: &Board, way: Way, reading: Reading, done: &Done) -> bool {
    match done {
        Err(Errno::EIO) if way.is_direct() => board.oracle.may_collide(reading),
        Err(Errno::EFAULT) | Ok(_) if way == Way::MappedWrite => board.oracle.may_be_short(reading),
        _ => false,
    }
}

/// Judges a read.
pub(super) fn look(board: &Board, way: Way, part: usize, reading: Reading, got: Got, len: usize) {
    let what = way.name();
    match got {
        Ok(bytes) => {
            if let Err(harm) = board.oracle.judge(what, reading, part, &bytes, len) {
                board.report(Found { who: what.to_owned(), part, harm });
            }
        }
        Err(errno) if is_excused(board, way, reading, &Err(errno)) => {}
        Err(errno) => {
            let text = format!("{what} at byte {}: {errno}, must return {len}", part * PART);
            board.report(Found::fault(what, part, Fault { class: Class::Errno, text }));
        }
    }
}
