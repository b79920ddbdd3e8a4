//! The end of an inode: no name, and nobody who still has it open.

use crate::errno::Result;
use crate::image::BLOCK;
use crate::image::mkfs::ROOT;
use crate::image::pins::Run;
use crate::image::tables::{Attr, FROZEN, INODES_FROZEN, INODES_USED, Tables};
use crate::image::view::View;
use crate::mutant::{self, Mutant};
use crate::volume::Volume;
use crate::volume::extents::BLOCK_MAX;
use crate::volume::inode::{Inode, load_attr};
use nix::errno::Errno;
use parking_lot::{Condvar, Mutex};
use redb::ReadableTable as _;
use std::sync::Arc;
use std::time::Duration;

/// Extents that one transaction takes away from a file without a name.
const CUT_EXTENTS: usize = 512;
/// Free blocks without which no file is reclaimed: more than what one such transaction copies.
const RECLAIM_BLOCKS: u64 = 64;

/// How long an allocation waits for one more file without a name to go. The kernel sends FORGET before unlink(2) or
/// close(2) returns, so what a program deleted before it asked for room is on its way.
const DEPARTURE: Duration = Duration::from_millis(100);

/// Counts the files that went after their last name.
#[derive(Debug, Default)]
pub(super) struct Departures {
    count: Mutex<u64>,
    more: Condvar,
}

impl Departures {
    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        *self.count.lock()
    }

    fn add(&self) {
        *self.count.lock() += 1;
        self.more.notify_all();
    }
}

impl Volume {
    /// Waits until more than `seen` files went after their last name; false when none is there to go, or none goes.
    pub(super) fn await_departure(&self, seen: u64) -> Result<bool> {
        if self.departures.count() == seen && self.store.read(|view| view.orphans(1))?.is_empty() {
            return Ok(self.departures.count() != seen);
        }
        let mut count = self.departures.count.lock();
        let late = self.departures.more.wait_while_for(&mut count, |n| *n == seen, DEPARTURE);
        Ok(!late.timed_out())
    }

    /// The kernel gave back `n` references. When it was the last one and no name is left, the
    /// inode and its blocks go.
    pub fn forget(&self, ino: u64, n: u64) -> Result<()> {
        if !self.inodes.drop_lookups(ino, n) {
            return Ok(());
        }
        // A linked inode needs nothing, and most are: no transaction for them.
        match self.inodes.get(ino) {
            Some(inode) if inode.read().attr.nlink == 0 => {}
            _ => return Ok(()),
        }
        if self.store.check_writable().is_err() {
            return Ok(());
        }
        if let Some(inode) = self.inodes.get(ino).filter(|_| self.store.space().is_low()) {
            self.cut(&inode)?;
        }
        self.change(|tables| {
            let inode = self.inode_in(&tables.view(), ino)?;
            let gone = inode.read().attr.nlink == 0 && !self.inodes.is_known(ino);
            if gone { self.delete(tables, &inode) } else { Ok(()) }
        })?;
        self.departures.add();
        Ok(())
    }

    /// The last name went: deleted now, or listed as an orphan for as long as it is open.
    pub(super) fn release(&self, tables: &mut Tables<'_>, inode: &Arc<Inode>) -> Result<()> {
        if self.inodes.is_known(inode.ino) && !mutant::is(Mutant::DeleteOpenFile) {
            if !mutant::is(Mutant::ForgetOrphan) {
                tables.orphans.insert(inode.ino, ())?;
            }
            return Ok(());
        }
        self.delete(tables, inode)
    }

    /// The rows of `inode` go, and its blocks. Whoever deletes a file of many extents cuts it first ([`Volume::cut`]).
    fn delete(&self, tables: &mut Tables<'_>, inode: &Arc<Inode>) -> Result<()> {
        let ino = inode.ino;
        self.load_extents_in(&tables.view(), inode)?;
        let extents = {
            let mut st = inode.write();
            st.deleted = true;
            st.extents.replace(Default::default()).unwrap_or_default()
        };
        for (logical, extent) in extents.iter() {
            tables.extents.remove((ino, logical))?;
            self.store.space().free(Run { start: extent.start, blocks: extent.blocks });
        }
        let names: Vec<Vec<u8>> = xattr_names(&tables.view(), ino)?;
        for name in names {
            tables.xattrs.remove((ino, name.as_slice()))?;
        }
        tables.targets.remove(ino)?;
        tables.orphans.remove(ino)?;
        tables.inodes.remove(ino)?;
        count(tables, INODES_USED, -1)?;
        if inode.read().attr.flags & FROZEN != 0 {
            count(tables, INODES_FROZEN, -1)?;
        }
        self.inodes.remove(ino);
        Ok(())
    }

    /// Notes the files that a crash left without a name, and reclaims what fits now.
    pub(super) fn find_orphans(&self) -> Result<()> {
        if self.store.check_writable().is_err() {
            return Ok(());
        }
        let orphans = self.store.read(|view| view.orphans(usize::MAX))?;
        if !orphans.is_empty() {
            let n = orphans.len();
            tracing::info!("{n} files were open but had no name when the image was last used");
        }
        *self.orphans.lock() = orphans;
        self.reclaim_orphans()?;
        let left = self.orphans.lock().len();
        if left > 0 {
            tracing::warn!("{left} files without a name wait for free space to be reclaimed");
        }
        Ok(())
    }

    /// Goes on reclaiming what `Volume::find_orphans` found, each file in transactions of its own: what a transaction
    /// copies before it gives anything back is bounded, so that it fits into the reserve. When even that
    /// is used up the rest waits for the next call.
    pub fn reclaim_orphans(&self) -> Result<()> {
        loop {
            if self.store.space().usage().free < RECLAIM_BLOCKS {
                return Ok(());
            }
            let Some(ino) = self.orphans.lock().pop() else { return Ok(()) };
            let is_orphan = |attr: &Attr| attr.nlink == 0 && ino != ROOT;
            let row = self.store.read(|view| load_attr(view, ino))?;
            if row.as_ref().is_some_and(is_orphan) {
                self.cut(&self.inode(ino)?)?;
            }
            self.change(|tables| match load_attr(&tables.view(), ino)? {
                Some(attr) if is_orphan(&attr) => {
                    let inode = self.inode_in(&tables.view(), ino)?;
                    if self.inodes.is_known(ino) { Ok(()) } else { self.delete(tables, &inode) }
                }
                // Never delete what has a name because a damaged list says so.
                _ => {
                    tables.orphans.remove(ino)?;
                    Ok(())
                }
            })?;
        }
    }

    /// Cuts a file that nobody can reach any more until few extents are left, a bounded number in each transaction.
    fn cut(&self, inode: &Arc<Inode>) -> Result<()> {
        self.load_extents(inode)?;
        loop {
            let from = {
                let st = inode.read();
                let extents = st.extents.as_ref().ok_or(Errno::ESTALE)?;
                let keep = extents.len().saturating_sub(CUT_EXTENTS);
                if keep == 0 || self.inodes.is_known(inode.ino) {
                    return Ok(());
                }
                extents.iter().nth(keep).map_or(0, |(logical, _)| logical)
            };
            self.change(|tables| {
                let change = self.update(inode, true, |st| {
                    st.attr.size = st.attr.size.min(from * BLOCK);
                    st.extents.as_mut().map(|e| e.remove(from, BLOCK_MAX)).unwrap_or_default()
                });
                self.apply(tables, inode, change)
            })?;
        }
    }
}

/// Adds to a counter.
pub(super) fn count(tables: &mut Tables<'_>, counter: &str, by: i64) -> Result<()> {
    let n = tables.counters.get(counter)?.map_or(0, |v| v.value());
    tables.counters.insert(counter, n.saturating_add_signed(by))?;
    Ok(())
}

/// Names of all attributes of an inode.
pub(super) fn xattr_names(view: &View<'_>, ino: u64) -> Result<Vec<Vec<u8>>> {
    Ok(view.xattrs(ino)?.into_iter().map(|(name, _)| name).collect())
}
