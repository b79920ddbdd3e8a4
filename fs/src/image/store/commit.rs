//! The commit: what it does, in which order, and who waits for it.

use crate::errno::Result;
use crate::image::BLOCK;
use crate::image::guard::guard;
use crate::image::pins::Run;
use crate::image::store::{Recovery, Running, Slot, Store};
use crate::image::tables::Tables;
use nix::errno::Errno;
use std::sync::atomic::Ordering::SeqCst;

/// Bytes of new data that are flushed before a commit, while operations go on; fewer go with the
/// first flush of the commit.
const BULK_BYTES: u64 = 1 << 20;
impl Store {
    /// Makes everything durable that was done before the call, data included; calls that come
    /// together share one commit. `flush` adds the rows that were kept back in memory and counts
    /// them.
    ///
    /// # Errors
    /// Whatever went wrong with the image; nothing is committed any more then.
    pub fn commit(
        &self,
        recovery: Recovery,
        flush: impl FnOnce(&mut Tables<'_>) -> Result<usize>,
    ) -> Result<()> {
        self.committing.run(
            || self.is_shut_down(),
            || self.commit_alone(recovery, flush).inspect_err(|_| self.fail()),
        )
    }

    /// Whether a commit is under way, which changes wait for.
    pub fn is_committing(&self) -> bool {
        self.committing.is_running()
    }

    /// Waits for a commit that is under way.
    ///
    /// # Errors
    /// EIO when it failed, or any before it.
    pub fn settle(&self) -> Result<()> {
        self.committing.settle();
        if self.is_shut_down() { Err(Errno::EIO.into()) } else { Ok(()) }
    }

    fn commit_alone(
        &self,
        recovery: Recovery,
        flush: impl FnOnce(&mut Tables<'_>) -> Result<usize>,
    ) -> Result<()> {
        if self.unflushed.load(SeqCst) > BULK_BYTES {
            self.unflushed.store(0, SeqCst);
            self.disk.sync()?;
        }
        let changed = guard("committing", || self.end_transaction(flush))?;
        if !changed {
            // Nothing was freed, but an I/O that held earlier blocks back may have ended.
            self.space.committed();
            return Ok(self.disk.sync()?);
        }
        let durable = guard("committing", || self.make_durable(recovery));
        let mut freed = Vec::new();
        if durable.is_ok() {
            self.durable.store(self.sequence() - 1, SeqCst);
            freed = self.space.settle();
            if !self.discards.load(SeqCst) {
                self.space.reopen(&std::mem::take(&mut freed));
            }
        }
        let mut slot = self.running.lock();
        // What was read in the snapshot is remembered before the first change.
        let alone = self.snapshots.write();
        let next = durable.and_then(|()| guard("committing", || self.begin()));
        self.reopened.notify_all();
        *slot = Slot::Closed;
        *slot = Slot::Open(next?);
        drop((alone, slot));
        // Changes go on meanwhile.
        self.discard(&mut freed);
        self.space.reopen(&freed);
        Ok(())
    }

    /// Gives blocks back that the commit freed and nobody uses: from now on, with every commit, before they are used again.
    pub fn discard_freed(&self) {
        self.discards.store(self.writable, SeqCst);
    }

    fn discard(&self, freed: &mut Vec<Run>) {
        freed.sort_unstable_by_key(|run| run.start);
        freed.dedup_by(|next, run| {
            let touches = run.end() == next.start;
            run.blocks += if touches { next.blocks } else { 0 };
            touches
        });
        for run in freed {
            if let Err(e) = self.disk.discard(run.start * BLOCK, run.blocks * BLOCK) {
                tracing::warn!("freed blocks are not given back any more: {e}");
                self.discards.store(false, SeqCst);
                return;
            }
        }
    }

    /// Ends the running transaction, in memory. `false` when it is empty and goes on.
    fn end_transaction(
        &self,
        flush: impl FnOnce(&mut Tables<'_>) -> Result<usize>,
    ) -> Result<bool> {
        let mut slot = self.running.lock();
        // A change may have failed halfway meanwhile.
        if self.is_shut_down() {
            return Err(Errno::EIO.into());
        }
        let Slot::Open(mut running) = std::mem::replace(&mut *slot, Slot::Closed) else {
            return Err(Errno::EIO.into());
        };
        let rows = running.with_dependent_mut(|_, tables| -> Result<usize> {
            let rows = flush(tables)?;
            if rows > 0 || self.changes() > 0 {
                tables.store_space(self.space.take_dirty())?;
            }
            Ok(rows)
        })?;
        if rows == 0 && self.changes() == 0 {
            *slot = Slot::Open(running);
            return Ok(false);
        }
        running.into_owner().commit()?;
        self.unflushed.store(0, SeqCst);
        self.changes.store(0, SeqCst);
        self.sequence.fetch_add(1, SeqCst);
        *slot = Slot::Committing;
        Ok(true)
    }

    /// Makes what was committed in memory durable: everything is flushed before the slot that
    /// refers to it is written, so a crash finds the one commit or the other, whole.
    fn make_durable(&self, recovery: Recovery) -> Result<()> {
        let mut txn = self.db.lock().as_ref().ok_or(Errno::EIO)?.begin_write()?;
        txn.set_durability(redb::Durability::Immediate)?;
        txn.set_two_phase_commit(true);
        txn.set_quick_repair(recovery == Recovery::Quick);
        Ok(txn.commit()?)
    }

    pub(super) fn begin(&self) -> Result<Running> {
        let mut txn = self.db.lock().as_ref().ok_or(Errno::EIO)?.begin_write()?;
        txn.set_durability(redb::Durability::None)?;
        Ok(Running::try_new(txn, |txn| Tables::open(txn))?)
    }
}
