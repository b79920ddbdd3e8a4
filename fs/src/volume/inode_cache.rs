//! Inodes in memory: those in use, those changed, and how often the kernel knows each.

use crate::volume::extents::ExtentMap;
use crate::volume::inode::Inode;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Inodes kept in memory before clean and idle ones are dropped.
const INODES_MAX: usize = 1 << 17;
/// Extents kept in memory before those of clean and idle inodes are dropped: about 50 MiB.
const EXTENTS_MAX: usize = 1 << 20;
const SHARDS: usize = 16;

/// The cache. Its locks are leaves, except that eviction looks at the state of idle inodes.
#[derive(Debug, Default)]
pub struct InodeCache {
    shards: [Mutex<Shard>; SHARDS],
    changed: Mutex<Vec<Arc<Inode>>>,
    /// Extents that may still be loaded before the next sweep.
    extents_left: Mutex<Allowance>,
}

#[derive(Debug)]
struct Allowance(usize);

impl Default for Allowance {
    fn default() -> Self {
        Allowance(EXTENTS_MAX)
    }
}

#[derive(Debug, Default)]
struct Shard {
    inodes: HashMap<u64, Arc<Inode>>,
    /// How many references the kernel holds; survives the eviction of the inode.
    lookups: HashMap<u64, u64>,
    hand: Vec<u64>,
}

impl InodeCache {
    fn shard(&self, ino: u64) -> &Mutex<Shard> {
        &self.shards[(ino % SHARDS as u64) as usize]
    }

    /// The inode if it is in memory.
    pub fn get(&self, ino: u64) -> Option<Arc<Inode>> {
        let found = self.shard(ino).lock().inodes.get(&ino).cloned();
        if let Some(inode) = &found {
            inode.used.store(1, Relaxed);
        }
        found
    }

    /// Adds an inode, or returns the one that somebody else added first.
    pub fn insert(&self, inode: Arc<Inode>) -> Arc<Inode> {
        let mut shard = self.shard(inode.ino).lock();
        if shard.inodes.len() >= INODES_MAX / SHARDS {
            shard.evict();
        }
        shard.inodes.entry(inode.ino).or_insert(inode).clone()
    }

    /// Forgets an inode that was deleted.
    pub fn remove(&self, ino: u64) {
        self.shard(ino).lock().inodes.remove(&ino);
    }

    /// The kernel was given one more reference.
    pub fn add_lookup(&self, ino: u64) {
        *self.shard(ino).lock().lookups.entry(ino).or_insert(0) += 1;
    }

    /// The kernel gave `n` references back; true when none is left.
    pub fn drop_lookups(&self, ino: u64, n: u64) -> bool {
        let mut shard = self.shard(ino).lock();
        let Some(count) = shard.lookups.get_mut(&ino) else { return false };
        *count = count.saturating_sub(n);
        let gone = *count == 0;
        if gone {
            shard.lookups.remove(&ino);
        }
        gone
    }

    /// True while the kernel holds a reference.
    pub fn is_known(&self, ino: u64) -> bool {
        self.shard(ino).lock().lookups.contains_key(&ino)
    }

    /// `n` extents came into memory. When there are too many, those of inodes that nobody uses and whose rows say the same
    /// go; what is in use stays, and may be as much again before the next sweep.
    pub fn note_extents(&self, n: usize) {
        {
            let mut left = self.extents_left.lock();
            left.0 = left.0.saturating_sub(n);
            if left.0 > 0 {
                return;
            }
            // Others go on meanwhile.
            left.0 = EXTENTS_MAX;
        }
        let kept: usize = self.shards.iter().map(|shard| shard.lock().drop_extents()).sum();
        self.extents_left.lock().0 = EXTENTS_MAX.saturating_sub(kept).max(EXTENTS_MAX / 2);
    }

    /// Remembers that the row of `inode` must be written by the next commit.
    pub fn note_changed(&self, inode: &Arc<Inode>) {
        self.changed.lock().push(inode.clone());
    }

    /// The inodes whose rows must be written.
    pub fn take_changed(&self) -> Vec<Arc<Inode>> {
        std::mem::take(&mut self.changed.lock())
    }

    /// Number of rows that must be written.
    pub fn changed(&self) -> usize {
        self.changed.lock().len()
    }

    /// Number of inodes in memory.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().inodes.len()).sum()
    }

    /// True when no inode is in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shard {
    /// Drops the extents of idle and clean inodes; returns how many are left.
    fn drop_extents(&self) -> usize {
        let mut kept = 0;
        for inode in self.inodes.values() {
            // As in `evict`: whoever relies on loaded extents holds the inode.
            let idle = Arc::strong_count(inode) == 1;
            let Some(mut st) = inode.try_write() else { continue };
            let len = st.extents.as_ref().map_or(0, ExtentMap::len);
            if idle && !st.dirty && !st.deleted {
                st.extents = None;
            } else {
                kept += len;
            }
        }
        kept
    }

    /// Drops up to an eighth of the shard: idle, clean, and not used since the hand last passed.
    fn evict(&mut self) {
        if self.hand.is_empty() {
            self.hand = self.inodes.keys().copied().collect();
        }
        let goal = (self.inodes.len() / 8).max(1);
        let mut dropped = 0;
        while dropped < goal {
            let Some(ino) = self.hand.pop() else { return };
            let Some(inode) = self.inodes.get(&ino) else { continue };
            // The map is locked, so a count of one cannot rise: nobody else can reach the inode.
            let idle = Arc::strong_count(inode) == 1 && inode.used.swap(0, Relaxed) == 0;
            let st = inode.read();
            let plain = !st.dirty && st.attr.nlink > 0 && st.append_from.is_none();
            drop(st);
            if idle && plain {
                self.inodes.remove(&ino);
                dropped += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tables::{Attr, Time};

    fn attr() -> Attr {
        let t = Time::default();
        Attr {
            mode: libc::S_IFREG,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            xflags: 0,
            project: 0,
            generation: 1,
            size: 0,
            blocks: 0,
            parent: 0,
            atime: t,
            mtime: t,
            ctime: t,
            btime: t,
        }
    }

    #[test]
    fn the_cache_stays_bounded_and_keeps_what_is_in_use_or_changed() {
        let cache = InodeCache::default();
        let held = cache.insert(Inode::new(1, attr(), None));
        let changed = Inode::new(2, attr(), None);
        changed.write().dirty = true;
        cache.insert(changed);
        for ino in 3..3 * INODES_MAX as u64 {
            cache.insert(Inode::new(ino, attr(), None));
        }
        assert!(cache.len() <= INODES_MAX + SHARDS);
        assert!(Arc::ptr_eq(&held, &cache.get(1).expect("in use")));
        assert!(cache.get(2).is_some_and(|i| i.read().dirty));
    }

    #[test]
    fn extents_in_memory_are_bounded() {
        let cache = InodeCache::default();
        let map = |n: u64| {
            let mut map = ExtentMap::default();
            for i in 0..n {
                map.load(
                    i * 2,
                    crate::image::tables::Extent { start: 9, blocks: 1, unwritten: false },
                );
            }
            Some(map)
        };
        let held = cache.insert(Inode::new(1, attr(), map(1000)));
        let changed = Inode::new(2, attr(), map(1000));
        changed.write().dirty = true;
        cache.insert(changed);
        let in_memory = |cache: &InodeCache| -> usize {
            let shards = cache.shards.iter();
            let of = |i: &Arc<Inode>| i.read().extents.as_ref().map_or(0, ExtentMap::len);
            shards.map(|s| s.lock().inodes.values().map(of).sum::<usize>()).sum()
        };
        for ino in 3..300 {
            cache.insert(Inode::new(ino, attr(), map(10_000)));
            cache.note_extents(10_000);
            assert!(in_memory(&cache) <= EXTENTS_MAX + 20_000);
        }
        assert!(held.read().extents.is_some(), "in use");
        assert!(cache.get(2).is_some_and(|i| i.read().extents.is_some()), "changed");
    }

    #[test]
    fn lookups_are_counted_per_inode() {
        let cache = InodeCache::default();
        cache.add_lookup(5);
        cache.add_lookup(5);
        assert!(!cache.drop_lookups(5, 1));
        assert!(cache.is_known(5));
        assert!(cache.drop_lookups(5, 1));
        assert!(!cache.is_known(5));
        assert!(!cache.drop_lookups(5, 1), "forgotten already");
    }
}
