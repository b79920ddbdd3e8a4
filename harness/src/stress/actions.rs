//! Racing actions: what happens to the file, or to the process, while I/O is in flight.

use std::fs::File;
use std::os::fd::AsFd;

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::board::{Board, Found};
use super::lane::Action;
use super::oracle::{Oracle, PART};
use crate::kit::bounds::bound;
use crate::kit::fork::{Task, child};
use crate::kit::stamp::BLOCK;
use crate::kit::verdict::{Class, Fault, not_run};

/// Does an action on a part; gives what it was for people, and the parts that it was about.
///
/// # Errors
/// The filesystem cannot do it at all (NOTRUN), or refused it.
pub fn act(
    action: Action,
    board: &Board,
    file: &File,
    part: usize,
    rng: &mut ChaCha8Rng,
) -> anyhow::Result<(String, std::ops::Range<usize>)> {
    let parts = board.oracle.parts();
    match action {
        Action::Truncate => {
            let size = part * PART + inside(rng);
            truncate(&board.oracle, file, size)?;
            Ok((format!("truncate to {size} and up again"), part..parts))
        }
        Action::Punch => {
            punch(&board.oracle, file, part)?;
            Ok((format!("punch {}+{PART}", part * PART), part..part + 1))
        }
        Action::Fork => {
            fork(board, part, rng)?;
            Ok(("fork".to_owned(), 0..0))
        }
        Action::Drop => {
            posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
                .context("fadvise")?;
            Ok(("drop the page cache".to_owned(), 0..parts))
        }
    }
}

/// A byte of a part to cut at: the border of a block as often as any other.
fn inside(rng: &mut ChaCha8Rng) -> usize {
    let at = rng.random_range(0..PART);
    if rng.random_bool(0.5) { at / BLOCK * BLOCK } else { at }
}

/// Cuts the file and extends it again to all of its parts.
///
/// # Errors
/// The errno of ftruncate(2).
pub fn truncate(oracle: &Oracle, file: &File, size: usize) -> anyhow::Result<()> {
    let open = oracle.truncate(size);
    let set = |size: usize| loop {
        match nix::unistd::ftruncate(file.as_fd(), size as i64) {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    };
    let done = set(size).and_then(|()| set(oracle.parts() * PART));
    oracle.end(open, done.is_ok());
    done.context("ftruncate")
}

/// Punches a part out.
///
/// # Errors
/// NOTRUN where the filesystem has no holes; otherwise the errno of fallocate(2).
pub fn punch(oracle: &Oracle, file: &File, part: usize) -> anyhow::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let open = oracle.punch(part);
    let done = fallocate(file.as_fd(), flags, (part * PART) as i64, PART as i64);
    oracle.end(open, done.is_ok());
    match done {
        Err(Errno::EOPNOTSUPP) => Err(not_run("no FALLOC_FL_PUNCH_HOLE here")),
        Err(Errno::EINTR) => Ok(()),
        done => done.context("punch"),
    }
}

/// Forks a child that watches the memory of a reader: it must stay as it was at the fork.
fn fork(board: &Board, part: usize, rng: &mut ChaCha8Rng) -> anyhow::Result<()> {
    let Some(spot) = board.spot(rng) else {
        return child(Task::Exit)?.finish(bound()).map(drop);
    };
    let child = child(Task::Steady { start: spot as *const u8, len: PART })?;
    board.next_begin();
    if child.finish(bound())? != 0 {
        let text = "the memory of a child changed after the fork: a read of its parent went to it";
        let fault = Fault { class: Class::Leak, text: text.to_owned() };
        board.report(Found::fault("fork", part, fault));
    }
    Ok(())
}
