//! Names in directories.
//!
//! A directory is one range of the `names` table, ordered by a keyed hash of the name. The hash is
//! also the directory offset (d_off), so a listing survives any change between two calls.

use crate::errno::{Error, Result};
use crate::image::tables::{self, Tables};
use crate::image::view::View;
use crate::volume::Volume;
use nix::errno::Errno;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Bytes of a name, as everywhere on Linux.
pub const NAME_MAX: usize = 255;
/// Names kept in memory, per shard.
const SHARD_MAX: usize = 1 << 13;
const SHARDS: usize = 16;

/// One name of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Inode number.
    pub ino: u64,
    /// DT_* type.
    pub kind: u8,
    /// Where the listing goes on after this entry.
    pub next: u64,
    /// The name.
    pub name: Vec<u8>,
}

/// By parent and hash: the name, to tell equal hashes apart, and the inode.
type Shard = HashMap<(u64, u64), (Box<[u8]>, u64)>;

/// Names in use, so that a lookup does not touch the database. Its locks are leaves.
#[derive(Debug, Default)]
pub struct NameCache {
    shards: [Mutex<Shard>; SHARDS],
}

impl NameCache {
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    fn get(&self, parent: u64, hash: u64, name: &[u8]) -> Option<u64> {
        let shard = self.shard(hash).lock();
        shard.get(&(parent, hash)).filter(|(n, _)| **n == *name).map(|(_, ino)| *ino)
    }

    fn put(&self, parent: u64, hash: u64, name: &[u8], ino: u64) {
        let mut shard = self.shard(hash).lock();
        if shard.len() >= SHARD_MAX {
            shard.clear();
        }
        shard.insert((parent, hash), (name.into(), ino));
    }

    fn drop(&self, parent: u64, hash: u64) {
        self.shard(hash).lock().remove(&(parent, hash));
    }
}

/// Refuses what cannot be a name, before anything is looked up.
pub fn check_name(name: &[u8]) -> Result<()> {
    match name {
        _ if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG.into()),
        b"" | b"." | b".." => Err(Errno::EINVAL.into()),
        _ => Ok(()),
    }
}

impl Volume {
    fn hash(&self, name: &[u8]) -> u64 {
        tables::name_hash(&self.hash_key, name)
    }

    /// The inode number behind a name.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<u64>> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        match self.names.get(parent, self.hash(name), name) {
            Some(ino) => Ok(Some(ino)),
            None => self.store.read(|view| self.find_name(view, parent, name)),
        }
    }

    pub(super) fn find_name(
        &self,
        view: &View<'_>,
        parent: u64,
        name: &[u8],
    ) -> Result<Option<u64>> {
        let hash = self.hash(name);
        let Some(value) = view.name(&tables::name_key(parent, hash, name))? else {
            return Ok(None);
        };
        let (ino, _) = tables::split_name_value(&value).ok_or_else(|| bad_name(parent))?;
        self.names.put(parent, hash, name, ino);
        Ok(Some(ino))
    }

    pub(super) fn put_name(
        &self,
        tables: &mut Tables<'_>,
        parent: u64,
        name: &[u8],
        ino: u64,
        mode: u32,
    ) -> Result<()> {
        let hash = self.hash(name);
        let value = tables::name_value(ino, tables::dtype(mode));
        tables.names.insert(tables::name_key(parent, hash, name).as_slice(), value.as_slice())?;
        self.names.put(parent, hash, name, ino);
        Ok(())
    }

    pub(super) fn drop_name(
        &self,
        tables: &mut Tables<'_>,
        parent: u64,
        name: &[u8],
    ) -> Result<()> {
        let hash = self.hash(name);
        tables.names.remove(tables::name_key(parent, hash, name).as_slice())?;
        self.names.drop(parent, hash);
        Ok(())
    }

    pub(super) fn is_empty_dir(&self, tables: &Tables<'_>, ino: u64) -> Result<bool> {
        let mut empty = true;
        let (first, last) = dir_range(ino, 0);
        tables.view().names_between((&first, &last), |_, _| {
            empty = false;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(empty)
    }

    /// Up to `max` entries after offset `after`, "." and ".." included.
    pub fn list(&self, ino: u64, after: u64, max: usize) -> Result<Vec<DirEntry>> {
        let dir = self.inode(ino)?;
        let attr = dir.attr();
        if !attr.is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
        let mut entries = Vec::new();
        let dots = [(1, ino, &b"."[..]), (2, attr.parent, b"..")];
        for (next, ino, name) in dots.into_iter().filter(|(next, ..)| *next > after) {
            entries.push(DirEntry { ino, kind: libc::DT_DIR, next, name: name.into() });
        }
        let (first, last) = dir_range(ino, after.max(tables::HASH_MIN - 1) + 1);
        self.store.read(|view| {
            view.names_between((&first, &last), |key, value| {
                let (_, hash, name) = tables::split_name_key(key).ok_or_else(|| bad_name(ino))?;
                let (child, kind) = tables::split_name_value(value).ok_or_else(|| bad_name(ino))?;
                // Many names under one made-up hash would make the listing go in circles.
                if hash != self.hash(name) {
                    return Err(bad_name(ino));
                }
                // Of names with equal hashes only the last one moves the offset past them: a
                // listing that is cut between them repeats one rather than losing one.
                if let Some(last) = entries.last_mut().filter(|e: &&mut DirEntry| e.next == hash) {
                    last.next = hash - 1;
                }
                if entries.len() >= max {
                    return Ok(ControlFlow::Break(()));
                }
                entries.push(DirEntry { ino: child, kind, next: hash, name: name.into() });
                Ok(ControlFlow::Continue(()))
            })
        })?;
        Ok(entries)
    }
}

/// The keys between which the names of a directory lie that have `from` or a larger hash.
fn dir_range(parent: u64, from: u64) -> (Vec<u8>, Vec<u8>) {
    (tables::name_key(parent, from, b""), tables::name_key(parent, u64::MAX, b""))
}

fn bad_name(parent: u64) -> Error {
    Error::Corrupt(format!("directory {parent} has a malformed entry"))
}
