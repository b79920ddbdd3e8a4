//! Extended attributes.

use crate::errno::Result;
use crate::image::tables::Attr;
use crate::volume::Volume;
use crate::volume::inode::{Inode, State};
use crate::volume::orphans::xattr_names;
use nix::errno::Errno;
use redb::ReadableTable as _;
use std::sync::Arc;

/// Attribute that holds the capabilities of an executable (capabilities(7)).
pub const CAPABILITY: &[u8] = b"security.capability";

impl State {
    /// An attribute is there now, or is not.
    pub(super) fn note_xattr(&mut self, name: &[u8], is_there: bool) {
        if name == CAPABILITY {
            self.is_capable = Some(is_there);
        }
    }
}

/// Largest value, XATTR_SIZE_MAX of linux/limits.h.
const VALUE_MAX: usize = 65536;
/// Longest list of names, XATTR_LIST_MAX of linux/limits.h.
const LIST_MAX: usize = 65536;

/// What setxattr(2) demands of an attribute that is or is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetMode {
    /// Nothing.
    Any,
    /// XATTR_CREATE: EEXIST when it is there.
    Create,
    /// XATTR_REPLACE: ENODATA when it is not.
    Replace,
}

impl Volume {
    /// The value of an attribute.
    ///
    /// # Errors
    /// ENODATA when there is none.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        self.store().read(|view| Ok(view.xattr(ino, name)?.ok_or(Errno::ENODATA)?))
    }

    /// Whether the inode has file capabilities. Asked on every write, so the answer is remembered.
    pub fn is_capable(&self, inode: &Inode) -> Result<bool> {
        if let Some(known) = inode.read().is_capable {
            return Ok(known);
        }
        self.store().read(|view| {
            let is_capable = view.xattr(inode.ino, CAPABILITY)?.is_some();
            inode.write().is_capable = Some(is_capable);
            Ok(is_capable)
        })
    }

    /// The names of all attributes.
    pub fn xattr_list(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        self.store().read(|view| xattr_names(view, ino))
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// ERANGE for a bad name, E2BIG for a long value, EEXIST and ENODATA as `mode` says, ENOSPC.
    pub fn set_xattr(
        &self,
        inode: &Arc<Inode>,
        name: &[u8],
        value: &[u8],
        mode: SetMode,
    ) -> Result<()> {
        self.set_xattr_and(inode, name, value, mode, |_| ())
    }

    /// As [`Volume::set_xattr`], and changes attributes of the inode in the same transaction.
    pub fn set_xattr_and(
        &self,
        inode: &Arc<Inode>,
        name: &[u8],
        value: &[u8],
        mode: SetMode,
        also: impl FnOnce(&mut Attr),
    ) -> Result<()> {
        if name.is_empty() || name.len() > 255 {
            return Err(Errno::ERANGE.into());
        }
        if value.len() > VALUE_MAX {
            return Err(Errno::E2BIG.into());
        }
        let ino = inode.ino;
        self.change(|tables| {
            let old = tables.xattrs.get((ino, name))?.map(|v| v.value().len());
            let there = old.is_some();
            if value.len() > old.unwrap_or(0) && !self.store().has_room() {
                return Err(Errno::ENOSPC.into());
            }
            match mode {
                SetMode::Create if there => return Err(Errno::EEXIST.into()),
                SetMode::Replace if !there => return Err(Errno::ENODATA.into()),
                _ => {}
            }
            if !there {
                let names = xattr_names(&tables.view(), ino)?;
                let listed: usize = names.iter().map(|n| n.len() + 1).sum();
                if listed + name.len() + 1 > LIST_MAX || !self.store().has_room() {
                    return Err(Errno::ENOSPC.into());
                }
            }
            tables.xattrs.insert((ino, name), value)?;
            self.update(inode, true, |st| {
                st.note_xattr(name, true);
                st.attr.touch(false);
                also(&mut st.attr);
            });
            Ok(())
        })
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// ENODATA when there is none.
    pub fn remove_xattr(&self, inode: &Arc<Inode>, name: &[u8]) -> Result<()> {
        self.change(|tables| {
            if tables.xattrs.remove((inode.ino, name))?.is_none() {
                return Err(Errno::ENODATA.into());
            }
            self.update(inode, true, |st| {
                st.note_xattr(name, false);
                st.attr.touch(false);
            });
            Ok(())
        })
    }

    /// Removes an attribute, if it is there, and changes attributes of the inode in the same transaction.
    pub fn remove_xattr_and(
        &self,
        inode: &Arc<Inode>,
        name: &[u8],
        also: impl FnOnce(&mut Attr),
    ) -> Result<()> {
        self.change(|tables| {
            tables.xattrs.remove((inode.ino, name))?;
            self.update(inode, true, |st| {
                st.note_xattr(name, false);
                st.attr.touch(false);
                also(&mut st.attr);
            });
            Ok(())
        })
    }
}
