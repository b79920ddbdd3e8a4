//! readdir and readdirplus.

use crate::ops::{Answer, Entry, Fs};
use crate::volume::DirEntry;

/// Entries fetched at a time: about what a 4 KiB reply with attributes holds.
const BATCH: usize = 32;

impl Fs {
    /// Calls `add` for every entry after `offset` until it says that the reply is full.
    pub fn readdir(
        &self,
        ino: u64,
        offset: u64,
        mut add: impl FnMut(&DirEntry) -> bool,
    ) -> Answer<()> {
        let dir = self.inode(ino)?;
        self.accessed(&dir);
        let mut after = offset;
        loop {
            let batch = self.volume.list(ino, after, BATCH)?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = last.next;
            if batch.iter().any(&mut add) {
                return Ok(());
            }
        }
    }

    /// The attributes of an entry of a listing. No reference is given; see [`Fs::remember`].
    pub fn listed(&self, entry: &DirEntry) -> Answer<Entry> {
        Ok(self.entry(&*self.inode(entry.ino)?))
    }

    /// The kernel was given a reference to an entry of a listing.
    pub fn remember(&self, ino: u64) {
        self.volume.remember(ino);
    }
}
