//! Making changes durable.

use crate::errno::Result;
use crate::image::store::Recovery;
use crate::image::tables::Tables;
use crate::volume::Volume;
use crate::volume::inode::Inode;

impl Volume {
    /// fsync(2), or fdatasync(2) with `data_only`: when it returns, the file survives power loss.
    pub fn sync_inode(&self, inode: &Inode, data_only: bool) -> Result<()> {
        let (commit, sequence) = {
            let st = inode.read();
            let newest = if data_only { st.data_sequence } else { st.sequence };
            let stale = newest > self.store().durable();
            (stale || (st.dirty && !data_only), self.store().sequence())
        };
        if commit {
            return self.commit_through(sequence, Recovery::Walk);
        }
        if self.store().is_shut_down() {
            return Err(nix::errno::Errno::EIO.into());
        }
        Ok(self.store().device().sync()?)
    }

    /// Makes everything durable that was done before the call.
    pub fn commit(&self, recovery: Recovery) -> Result<()> {
        self.commit_through(self.store().sequence(), recovery)
    }

    /// Commits if there is anything to commit.
    pub fn commit_if_changed(&self, recovery: Recovery) -> Result<()> {
        let pending = self.store().changes() > 0 || self.inodes.changed() > 0;
        if pending { self.commit(recovery) } else { Ok(()) }
    }

    fn commit_through(&self, sequence: u64, recovery: Recovery) -> Result<()> {
        self.store().check_writable()?;
        self.store().commit(sequence, recovery, |tables| self.flush(tables))
    }

    fn flush(&self, tables: &mut Tables<'_>) -> Result<()> {
        self.inodes.take_changed().iter().try_for_each(|inode| inode.flush(tables))
    }

    /// Commits and closes the image; nothing works afterwards.
    pub fn close(&self) -> Result<()> {
        self.store().close(|tables| self.flush(tables))
    }
}
