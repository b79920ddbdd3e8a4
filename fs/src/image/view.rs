//! Rows to be read, wherever they are: in the running transaction, or, while that is made durable,
//! in a snapshot of it.

use crate::errno::{Error, Result};
use crate::image::tables::{
    COUNTERS, EXTENTS, Extent, INODES, NAMES, ORPHANS, TARGETS, Tables, XATTRS,
};
use redb::{ReadTransaction, ReadableTable as _};
use std::ops::ControlFlow;

/// The rows as they are now.
pub enum View<'a> {
    /// Of the running transaction.
    Running(&'a Tables<'a>),
    /// Of the commit that is under way.
    Snapshot(&'a ReadTransaction),
}

/// Runs the same lines over a table of either kind.
macro_rules! table {
    ($view:expr, $field:ident, $definition:expr, |$table:ident| $body:expr) => {
        match $view {
            View::Running(tables) => {
                let $table = &tables.$field;
                $body
            }
            View::Snapshot(txn) => {
                let $table = &txn.open_table($definition)?;
                $body
            }
        }
    };
}

impl View<'_> {
    /// The row of an inode.
    pub fn inode(&self, ino: u64) -> Result<Option<Vec<u8>>> {
        table!(self, inodes, INODES, |t| Ok(t.get(ino)?.map(|row| row.value().to_vec())))
    }

    /// The value of a name.
    pub fn name(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        table!(self, names, NAMES, |t| Ok(t.get(key)?.map(|row| row.value().to_vec())))
    }

    /// Calls `f` with every name whose key is in `[first, last)`, until it breaks off.
    pub fn names_between(
        &self,
        (first, last): (&[u8], &[u8]),
        mut f: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        table!(self, names, NAMES, |t| {
            for row in t.range(first..last)? {
                let (key, value) = row?;
                if f(key.value(), value.value())?.is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The extents of an inode with their first logical blocks, in order.
    pub fn extents(&self, ino: u64, mut f: impl FnMut(u64, Extent) -> Result<()>) -> Result<()> {
        table!(self, extents, EXTENTS, |t| {
            for row in t.range((ino, 0)..=(ino, u64::MAX))? {
                let (key, value) = row?;
                f(key.value().1, Extent::unpack(value.value()))?;
            }
            Ok(())
        })
    }

    /// The target of a symlink.
    pub fn target(&self, ino: u64) -> Result<Option<Vec<u8>>> {
        table!(self, targets, TARGETS, |t| Ok(t.get(ino)?.map(|row| row.value().to_vec())))
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Option<Vec<u8>>> {
        table!(self, xattrs, XATTRS, |t| Ok(t.get((ino, name))?.map(|row| row.value().to_vec())))
    }

    /// The names of all extended attributes of an inode, with the lengths of their values.
    pub fn xattrs(&self, ino: u64) -> Result<Vec<(Vec<u8>, usize)>> {
        table!(self, xattrs, XATTRS, |t| {
            let mut names = Vec::new();
            for row in t.range((ino, &b""[..])..(ino.saturating_add(1), &b""[..]))? {
                let (key, value) = row?;
                names.push((key.value().1.to_vec(), value.value().len()));
            }
            Ok(names)
        })
    }

    /// At most `max` inodes that have no name.
    pub fn orphans(&self, max: usize) -> Result<Vec<u64>> {
        table!(self, orphans, ORPHANS, |t| {
            let rows = t.iter()?.take(max);
            rows.map(|row| row.map(|(k, _)| k.value()).map_err(Error::from)).collect()
        })
    }

    /// A counter; 0 when nobody has counted yet.
    pub fn counter(&self, name: &str) -> Result<u64> {
        table!(self, counters, COUNTERS, |t| Ok(t.get(name)?.map_or(0, |v| v.value())))
    }
}
