//! What is judged when a combination of the matrix was played: the count, memory, mappings, and the file.

use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use anyhow::Context;

use super::Cell;
use super::action::{Action, After, STORE_AT, STORED};
use super::buffer::{Held, Kind, SPACE};
use super::io::Outcome;
use super::oracle::{self, Piece};
use super::play::Set;
use crate::fixture::{BOUND, Fixture, Open, forget_pages};
use crate::kit::engine::Way;
use crate::kit::memory::PAGE;
use crate::kit::stamp::{self, CANARY, Legal};
use crate::kit::sys;
use crate::kit::verdict::Class;

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
            return Ok(());
        }
        match *done {
            Ok(count) if count < self.len && oracle::may_be_short(cell, race) => {}
            done if !fixture.count("the I/O", done, self.len) => return Ok(()),
            _ => {}
        }
        let count = done.unwrap_or(0);
        let legal = oracle::read(cell, &self.file, race, SPACE);
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
            && child.finish(BOUND)? == 1
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
            // The memory itself was cut off; what it is afterwards is judged as part of the file.
            return;
        }
        let is_read = cell.op.way == Way::Read;
        if after.canary && (cell.op.holds_pages() || !is_read) {
            if held.buffer.bytes(0, SPACE).iter().any(|&byte| byte != CANARY) {
                let text = "data arrived in pages that were mapped at the old address later";
                fixture.fault(Class::Foreign, text);
            }
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
            false => oracle::read(cell, &self.file, fixture.race(), *count),
        };
        let end = Instant::now() + BOUND;
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
            std::thread::yield_now();
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
        let (mut sizes, pieces) = oracle::file(cell, &self.file, race, self.offset, self.len);
        if race && cell.action == Action::Cut && sizes.len() > 1 {
            let ino = self.reader.metadata()?.ino();
            match fixture.was_cut_before_write(ino, self.offset as u64)? {
                Some(true) => sizes.retain(|&size| size > 0),
                Some(false) => sizes.retain(|&size| size == 0),
                None => {}
            }
        }
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
        for other in &after.others {
            let handle = fixture.open(other, Open::Buffered)?;
            let bytes = fixture.read(&handle, 0, SPACE)?.map_err(anyhow::Error::from)?;
            fixture.judge("a new file", &bytes, 0, &[other.generation(1)]);
        }
        Ok(())
    }
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
