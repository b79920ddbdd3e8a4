//! A larger filesystem, while it is in use or not.
//!
//! Three steps, each of them whole on the disk before the next one begins. A commit that gives the last group a row that is
//! right for either length: there what lies past the end counts as taken. The superblock with the new size. A commit in which
//! what is new is free. After a crash in between the new blocks of that one group, 32 MiB at most, are nobody's until a check
//! finds them.

use crate::errno::Result;
use crate::image::BLOCK;
use crate::image::store::Recovery;
use crate::image::superblock::BLOCKS_MAX;
use crate::volume::Volume;
use nix::errno::Errno;

impl Volume {
    /// Makes it a filesystem of `blocks` blocks, which the image must have already. The same number changes nothing.
    ///
    /// # Errors
    /// EINVAL for fewer blocks than there are, ENOSPC for more than the image has, EBUSY while it is made larger already, and
    /// those of the disk.
    pub fn grow(&self, blocks: u64) -> Result<()> {
        let store = self.store();
        store.check_writable()?;
        let have = store.space().total();
        if blocks < have || blocks > BLOCKS_MAX {
            return Err(Errno::EINVAL.into());
        }
        if store.disk().len()? / BLOCK < blocks {
            return Err(Errno::ENOSPC.into());
        }
        if blocks == have {
            return Ok(());
        }
        if !store.space().expect_growth() {
            return Err(Errno::EBUSY.into());
        }
        self.commit_space().inspect_err(|_| store.space().stay())?;
        // What both copies say is not known when this fails.
        store.meta().update(|sb| sb.total_blocks = blocks).inspect_err(|_| store.fail())?;
        store.space().grow(blocks);
        self.commit_space()
    }

    /// A commit, though no row but those of the allocator changed.
    fn commit_space(&self) -> Result<()> {
        self.store().change(|_| Ok(()))?;
        self.commit(Recovery::Walk)
    }
}
