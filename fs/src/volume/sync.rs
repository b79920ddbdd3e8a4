//! Making changes durable.

use crate::errno::{Errno, Result};
use crate::image::store::Recovery;
use crate::image::tables::Tables;
use crate::mutant::{self, Mutant};
use crate::volume::Volume;
use crate::volume::inode::Inode;
use std::io;

impl Volume {
    /// fsync(2), or fdatasync(2) with `data_only`: when it returns, the file survives power loss.
    pub fn sync_inode(&self, inode: &Inode, data_only: bool) -> Result<()> {
        if self.needs_commit(inode, data_only) {
            return self.commit(Recovery::Walk);
        }
        if self.store().is_shut_down() {
            return Err(Errno::EIO.into());
        }
        if mutant::is(Mutant::SkipCleanFlush) {
            return Ok(());
        }
        self.flushed(self.store().disk().sync())
    }

    fn needs_commit(&self, inode: &Inode, data_only: bool) -> bool {
        let st = inode.read();
        // What changed after the running commit took the row is in no transaction yet, whatever its
        // number says.
        let (newest, in_memory) =
            if data_only { (st.data_sequence, st.dirty_contents) } else { (st.sequence, st.dirty) };
        in_memory || newest > self.store().durable()
    }

    /// Whether [`Volume::sync_inode`] would flush the image and do nothing else, so that anybody may
    /// make that flush; [`Volume::flushed`] takes its result.
    pub fn needs_flush_only(&self, inode: &Inode, data_only: bool) -> bool {
        !self.needs_commit(inode, data_only)
            && !self.store().is_shut_down()
            && !mutant::is(Mutant::SkipCleanFlush)
    }

    /// After a flush of the image.
    ///
    /// # Errors
    /// That of the flush. The kernel reports a failed write-back once, and all files share one image:
    /// from here on nobody may be told that anything is durable. EIO where that came meanwhile.
    pub fn flushed(&self, result: io::Result<()>) -> Result<()> {
        result.inspect_err(|_| self.store().fail())?;
        if self.store().is_shut_down() { Err(Errno::EIO.into()) } else { Ok(()) }
    }

    /// Makes everything durable that was done before the call.
    pub fn commit(&self, recovery: Recovery) -> Result<()> {
        self.store().check_writable()?;
        self.store().commit(recovery, |tables| self.flush(tables))
    }

    /// Commits if there is anything to commit.
    pub fn commit_if_changed(&self, recovery: Recovery) -> Result<()> {
        let pending = self.store().changes() > 0 || self.inodes.changed() > 0;
        if pending { self.commit(recovery) } else { self.store().settle() }
    }

    fn flush(&self, tables: &mut Tables<'_>) -> Result<usize> {
        let (changed, sequence) = (self.inodes.take_changed(), self.store().sequence());
        changed.iter().try_for_each(|inode| inode.flush(tables, sequence))?;
        Ok(changed.len())
    }

    /// Commits and closes the image; nothing works afterwards.
    pub fn close(&self) -> Result<()> {
        self.store().close(|tables| self.flush(tables))
    }
}
