//! The end of an inode: no name, and nobody who still has it open.

use crate::errno::Result;
use crate::image::mkfs::ROOT;
use crate::image::tables::{INODES_USED, Tables};
use crate::image::view::View;
use crate::mutant::{self, Mutant};
use crate::volume::Volume;
use crate::volume::inode::{Inode, load_attr};
use redb::ReadableTable as _;
use std::sync::Arc;

impl Volume {
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
        self.change(|tables| {
            let inode = self.inode_in(&tables.view(), ino)?;
            let gone = inode.read().attr.nlink == 0 && !self.inodes.is_known(ino);
            if gone { self.delete(tables, &inode) } else { Ok(()) }
        })
    }

    /// The last name went: deleted now, or listed as an orphan for as long as it is open.
    pub(super) fn release(&self, tables: &mut Tables<'_>, inode: &Arc<Inode>) -> Result<()> {
        if self.inodes.is_known(inode.ino) && !mutant::is(Mutant::DeleteOpenFile) {
            tables.orphans.insert(inode.ino, ())?;
            return Ok(());
        }
        self.delete(tables, inode)
    }

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
            self.store
                .space()
                .free(crate::image::pins::Run { start: extent.start, blocks: extent.blocks });
        }
        let names: Vec<Vec<u8>> = xattr_names(&tables.view(), ino)?;
        for name in names {
            tables.xattrs.remove((ino, name.as_slice()))?;
        }
        tables.targets.remove(ino)?;
        tables.orphans.remove(ino)?;
        tables.inodes.remove(ino)?;
        count(tables, -1)?;
        self.inodes.remove(ino);
        Ok(())
    }

    pub(super) fn reclaim_orphans(&self) -> Result<()> {
        if self.store.check_writable().is_err() {
            return Ok(());
        }
        let orphans = self.store.read(|view| view.orphans(usize::MAX))?;
        if orphans.is_empty() {
            return Ok(());
        }
        tracing::info!(
            "{} files were open but had no name when the image was last used",
            orphans.len()
        );
        self.change(|tables| {
            for ino in orphans {
                match load_attr(&tables.view(), ino)? {
                    Some(attr) if attr.nlink == 0 && ino != ROOT => {
                        let inode = self.inode_in(&tables.view(), ino)?;
                        self.delete(tables, &inode)?;
                    }
                    // Never delete what has a name because a damaged list says so.
                    _ => drop(tables.orphans.remove(ino)?),
                }
            }
            Ok(())
        })
    }
}

/// Adds to the number of inodes in use.
pub(super) fn count(tables: &mut Tables<'_>, by: i64) -> Result<()> {
    let used = tables.counters.get(INODES_USED)?.map_or(0, |v| v.value());
    tables.counters.insert(INODES_USED, used.saturating_add_signed(by))?;
    Ok(())
}

/// Names of all attributes of an inode.
pub(super) fn xattr_names(view: &View<'_>, ino: u64) -> Result<Vec<Vec<u8>>> {
    Ok(view.xattrs(ino)?.into_iter().map(|(name, _)| name).collect())
}
