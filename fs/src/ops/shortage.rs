//! Files whose write-back found no room.
//!
//! A kernel that caches writes accepts them without asking for room, and says ENOSPC at close(2) and fsync(2): a
//! program that writes until write(2) fails would not end. NFS has the same cache and gives an error of write-back to
//! the next write(2) as well. So it is done here: before a cached write the kernel asks for the attributes, if it
//! must not believe those that it has (`fuse_cache_write_iter`, fs/fuse/file.c), and names the open file. That question is answered
//! with ENOSPC, once for each time that write-back failed. stat(2) names no open file and is not told.

use crate::errno::Errno;
use crate::ops::{Answer, Fs};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Inodes of which nobody was told yet.
#[derive(Debug, Default)]
pub struct Shortage {
    inodes: Mutex<HashSet<u64>>,
    /// How many there are, written under the lock: every GETATTR of an open file and every FORGET asks, and nearly always
    /// there is none.
    count: AtomicUsize,
}

impl Shortage {
    fn insert(&self, ino: u64) {
        let mut inodes = self.inodes.lock();
        inodes.insert(ino);
        self.count.store(inodes.len(), Ordering::Release);
    }

    /// Whether it was there.
    fn remove(&self, ino: u64) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut inodes = self.inodes.lock();
        let was_there = inodes.remove(&ino);
        self.count.store(inodes.len(), Ordering::Release);
        was_there
    }
}

impl Fs {
    /// Whether the failure of a write is one of which the next write(2) is to be told: from then on the kernel must not believe
    /// the file's attributes.
    pub fn note_shortage(&self, ino: u64, cached: bool, errno: Errno) -> bool {
        let is_one = cached && errno == Errno::ENOSPC;
        if is_one {
            self.shortage.insert(ino);
        }
        is_one
    }

    /// What is to be told to who asks with an open file.
    ///
    /// # Errors
    /// ENOSPC, once for each shortage.
    pub fn tell_shortage(&self, ino: u64) -> Answer<()> {
        match self.shortage.remove(ino) {
            true => Err(Errno::ENOSPC),
            false => Ok(()),
        }
    }

    /// The last user of the file is gone, and has been told by close(2).
    pub(super) fn forget_shortage(&self, ino: u64) {
        self.shortage.remove(ino);
    }
}
