//! What is judged when a combination of the matrix was played: the count, memory, mappings, and the file.

use std::os::fd::AsRawFd;
use std::time::Instant;

use anyhow::Context;

use super::Cell;
use super::action::{Action, After, STORE_AT, STORED};
use super::buffer::{Held, Kind, SPACE};
use super::io::Outcome;
use super::oracle::{self, Piece};
use super::play::Set;
use crate::fixture::{Fixture, Open, forget_pages};
use crate::kit::bounds::bound;
use crate::kit::engine::Way;
use crate::kit::memory::PAGE;
use crate::kit::pause::Pause;
use crate::kit::stamp::{self, CANARY, Legal};
use crate::kit::sys;
use crate::kit::verdict::{Class, Fault};

impl Set {
    /// Judges the count, and what the I/O brought, or left in memory.
    pub(super) fn judge_io(
        &self,
        fixture: &mut Fixture<'_>,
        cell: &Cell,
        outcome: Option<&Outcome>,
        after: &mut After,
    ) -> anyhow::Result<()> {
        let Some((done, brought)) = outcome else {
            return self.judge_survivor(fixture, cell);
        };
        let race = fixture.race();
        if let Some(due) = oracle::is_due(cell, race, *done) {
            if !due {
                fixture.fault(Class::Errno, format!("the I/O returned {done:?}"));
            }
            if let Some(held) = self.held.as_ref().filter(|_| after.canary) {
                judge_canary(fixture, held);
            }
            return Ok(());
        }
        match *done {
            Ok(count) if count < self.len && oracle::may_be_short(cell, race, self.order) => {}
            done if !fixture.count("the I/O", done, self.len) => return Ok(()),
            _ => {}
        }
        let count = done.unwrap_or(0);
        let legal = oracle::read(cell, &self.file, race, self.order, SPACE);
        match &self.held {
            None if cell.op.way == Way::Read => {
                if brought.len() != count {
                    let text = format!("returned {count}, brought {} bytes", brought.len());
                    fixture.fault(Class::Short, text);
                }
                judge_pieces(fixture, "what came", brought, &legal);
            }
            Some(held) => self.judge_memory(fixture, cell, held, count, &legal, after),
            None => {}
        }
        if let Some(child) = after.child.take()
            && child.finish(bound())? == 1
        {
            fixture.fault(Class::Leak, "child: data arrived in memory that was copied at fork");
        }
        Ok(())
    }

    fn judge_memory(
        &self,
        fixture: &mut Fixture<'_>,
        cell: &Cell,
        held: &Held,
        count: usize,
        legal: &[Piece],
        after: &After,
    ) {
        let race = fixture.race();
        let cuts = matches!(cell.action, Action::Cut | Action::CutGrow);
        if race && cuts && cell.kind == Kind::SelfMap {
            return self.judge_cut_memory(fixture, cell, held);
        }
        let is_read = cell.op.way == Way::Read;
        if after.canary && (cell.op.holds_pages() || !is_read) {
            judge_canary(fixture, held);
        } else if is_read {
            let mut bytes = held.buffer.bytes(0, count);
            if race {
                oracle::forgive_stores(cell, &mut bytes, legal);
            }
            judge_pieces(fixture, "the memory", &bytes, legal);
        }
        if let Some(moved) = after.moved.as_ref().filter(|_| is_read) {
            let bytes = moved.bytes(0, count);
            match cell.op.holds_pages() {
                true => judge_pieces(fixture, "the moved pages", &bytes, legal),
                false => fixture.judge("the moved pages", &bytes, 0, &[Legal::Poison]),
            }
        }
        let stored = race && cell.action.stores() && cell.kind != Kind::ReadOnly;
        let is_rewritten = cell.action == Action::Store && !is_read;
        if stored && !is_rewritten && STORE_AT >= self.len && held.buffer.load(STORE_AT) != STORED {
            fixture.fault(Class::Lost, format!("the store to byte {STORE_AT} is gone"));
        }
    }

    /// The I/O was another process's: memory that we share with it may have the data, our own must not.
    fn judge_survivor(&self, fixture: &mut Fixture<'_>, cell: &Cell) -> anyhow::Result<()> {
        if let (Some(held), Way::Read) = (&self.held, cell.op.way) {
            let mut legal = vec![Legal::Poison];
            if !cell.kind.is_private() {
                legal.push(self.file.generation(1));
            }
            fixture.judge("our memory", &held.buffer.bytes(0, self.len), 0, &legal);
        }
        Ok(())
    }

    /// Data that was read into a mapping of a file is in the file: it is asked for past the page cache, when nobody maps
    /// the pages any longer.
    pub(super) fn judge_mapped(
        &mut self,
        fixture: &mut Fixture<'_>,
        cell: &Cell,
        outcome: Option<&Outcome>,
        after: &mut After,
    ) -> anyhow::Result<()> {
        let Some(Held { buffer, mapped: Some((_, handle, offset)) }) =
            self.held.take_if(|held| held.mapped.is_some() && cell.op.way == Way::Read)
        else {
            return Ok(());
        };
        drop((buffer, after.moved.take()));
        let cuts =
            matches!(cell.action, Action::Cut | Action::CutGrow | Action::Punch | Action::Zero);
        let (Some((Ok(count), _)), false) = (outcome, fixture.race() && cuts) else {
            return Ok(());
        };
        sys::set_direct(handle.as_raw_fd(), true).context("O_DIRECT on the mapped file")?;
        // What is copied goes to what is mapped at the address by then.
        let left = matches!(cell.action, Action::Munmap | Action::Mremap) && fixture.race();
        let legal = match left && !cell.op.holds_pages() {
            true => vec![Piece { from: 0, to: *count, legal: vec![Legal::Poison] }],
            false => oracle::read(cell, &self.file, fixture.race(), self.order, *count),
        };
        let end = Instant::now() + bound();
        let mut pause = Pause::default();
        loop {
            handle.sync_all().context("fsync of the mapped file")?;
            let mut bytes = fixture.read(&handle, offset, *count)?.map_err(anyhow::Error::from)?;
            if fixture.race() {
                oracle::forgive_stores(cell, &mut bytes, &legal);
            }
            // Pages that were written back while they were held are made dirty again by a worker, and the read does not
            // wait for that (`bio_check_pages_dirty` in block/bio.c): it may be later than the first fsync.
            // What memory does not have the file will not get.
            let is_over = !fixture.faults.is_empty() || Instant::now() >= end;
            if is_over || do_fit(&bytes, &legal) {
                fixture.count("reading the mapped file", Ok(bytes.len()), *count);
                judge_pieces(fixture, "the mapped file", &bytes, &legal);
                return Ok(());
            }
            pause.rest();
        }
    }

    /// Judges what is behind the page cache: the same as in it.
    fn judge_behind(
        &self,
        fixture: &mut Fixture<'_>,
        cached: &[u8],
        size: usize,
        pieces: &[Piece],
    ) -> anyhow::Result<()> {
        let Some(direct) = &self.direct else { return Ok(()) };
        let asked = size.next_multiple_of(PAGE) + PAGE;
        let bytes = fixture.read(direct, 0, asked)?.map_err(anyhow::Error::from)?;
        fixture.count("reading the file directly", Ok(bytes.len()), size);
        judge_pieces(fixture, "the file, directly", &bytes, pieces);
        let upto = pieces.iter().map(|piece| piece.to).max().unwrap_or(0);
        fixture.faults.extend(agree("the file", cached, &bytes, upto));
        Ok(())
    }

    /// Judges the memory that the file was cut below: a mapping of its end, which has nothing left of what it held.
    fn judge_cut_memory(&self, fixture: &mut Fixture<'_>, cell: &Cell, held: &Held) {
        if cell.action == Action::CutGrow {
            let bytes = held.buffer.bytes(0, SPACE);
            let legal = [self.file.hole()];
            fixture.judge("the memory, cut off and grown again", &bytes, SPACE as u64, &legal);
        } else if held.buffer.is_there() {
            let text = "the memory: a page behind the end of its file can still be loaded";
            fixture.fault(Class::Resurrected, text);
        }
    }

    /// Judges the file: its size, what the kernel believes of it, its contents, and those of its neighbours.
    pub(super) fn judge_file(
        &self,
        fixture: &mut Fixture<'_>,
        cell: &Cell,
        after: &After,
    ) -> anyhow::Result<()> {
        let race = fixture.race();
        if cell.op.way == Way::Write && !cell.op.is_direct() {
            self.reader.sync_all().context("fsync")?;
            forget_pages(&self.reader)?;
        }
        let (sizes, pieces) =
            oracle::file(cell, &self.file, race, self.order, self.offset, self.len);
        let believed = self.reader.metadata()?.len();
        let size = match sys::refresh(&self.file.path) {
            Ok(size) => size,
            // It was unlinked: nobody else can be asked.
            Err(_) if race && cell.action == Action::Unlink => believed,
            Err(error) => return Err(error),
        };
        if believed != size || !sizes.contains(&(size as usize)) {
            let text =
                format!("fstat said {believed} bytes, the file has {size}, must be {sizes:?}");
            fixture.fault(Class::Short, text);
        }
        // Asked for more than there is: the end is where it must be.
        let bytes = fixture.read(&self.reader, 0, size as usize + PAGE)?;
        let bytes = bytes.map_err(anyhow::Error::from)?;
        fixture.count("reading the file", Ok(bytes.len()), size as usize);
        judge_pieces(fixture, "the file", &bytes, &pieces);
        self.judge_behind(fixture, &bytes, size as usize, &pieces)?;
        for other in &after.others {
            let handle = fixture.open(other, Open::Buffered)?;
            let bytes = fixture.read(&handle, 0, SPACE)?.map_err(anyhow::Error::from)?;
            fixture.judge("a new file", &bytes, 0, &[other.generation(1)]);
        }
        Ok(())
    }
}

fn judge_canary(fixture: &mut Fixture<'_>, held: &Held) {
    if held.buffer.bytes(0, SPACE).iter().any(|&byte| byte != CANARY) {
        let text = "data arrived in pages that were in other use by then";
        fixture.fault(Class::Foreign, text);
    }
}

/// What two readers of the same bytes must agree on, where either would be legal.
fn agree(what: &str, cached: &[u8], direct: &[u8], upto: usize) -> Option<Fault> {
    let (cached, direct) = (&cached[..upto.min(cached.len())], &direct[..upto.min(direct.len())]);
    let at = cached.iter().zip(direct).position(|(cached, direct)| cached != direct);
    let at = at.or((cached.len() != direct.len()).then(|| cached.len().min(direct.len())))?;
    let text = format!("{what}: byte {at}: the page cache and what is behind it differ");
    Some(Fault { class: Class::Stale, text })
}

/// Judges what a reader saw from the beginning of a file on, as far as it reaches.
fn judge_pieces(fixture: &mut Fixture<'_>, what: &str, bytes: &[u8], pieces: &[Piece]) {
    for (from, bytes, legal) in parts(bytes, pieces) {
        fixture.judge(what, bytes, from, legal);
    }
}

/// Whether a judge would find nothing.
fn do_fit(bytes: &[u8], pieces: &[Piece]) -> bool {
    parts(bytes, pieces).all(|(from, bytes, legal)| stamp::judge("", bytes, from, legal).is_empty())
}

/// What was seen of each piece: from where on, and what is legal there.
fn parts<'a>(
    bytes: &'a [u8],
    pieces: &'a [Piece],
) -> impl Iterator<Item = (u64, &'a [u8], &'a [Legal])> {
    pieces.iter().map(|piece| {
        let (from, to) = (piece.from.min(bytes.len()), piece.to.min(bytes.len()));
        (from as u64, &bytes[from..to], &*piece.legal)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_cache_that_is_not_what_is_behind_it_is_stale() {
        let (old, new) = (stamp::content(7, 1, 0, 8192), stamp::content(7, 2, 0, 8192));
        assert_eq!(agree("the file", &old, &old, 8192), None);
        let half: Vec<u8> = [&old[..4096], &new[4096..]].concat();
        let fault = agree("the file", &old, &half, 8192).unwrap();
        assert_eq!(fault.class, Class::Stale);
        assert!(fault.text.contains(&format!("byte {}", 4096 + 24)), "{}", fault.text);
        assert_eq!(agree("the file", &old, &half, 4096), None, "behind what is judged");
        assert!(agree("the file", &old, &old[..4096], 8192).is_some(), "one ends earlier");
    }
}
