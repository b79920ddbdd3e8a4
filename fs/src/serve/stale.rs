//! Inodes whose number of blocks changed behind the kernel's back.
//!
//! The kernel asks again by itself when a file is closed (`fuse_flush`), but not when it writes back
//! or syncs while the file stays open. A notification for each write-back would cost a wake-up of
//! another thread each, so they are gathered: fsync(2) tells of its file before it is answered, and
//! the rest is told together a little later.

use super::notice::Notice;
use super::server::Server;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(10);

/// Inodes of which the kernel is to be told.
#[derive(Default)]
pub struct Stale {
    inodes: Mutex<HashSet<u64>>,
}

impl Stale {
    /// Notes that the blocks of `ino` changed; true for the first one since all were told.
    fn add(&self, ino: u64) -> bool {
        let mut inodes = self.inodes.lock();
        let first = inodes.is_empty();
        inodes.insert(ino);
        first
    }

    /// Whether `ino` was among them; whoever asks tells the kernel.
    pub(super) fn take(&self, ino: u64) -> bool {
        self.inodes.lock().remove(&ino)
    }

    fn take_all(&self) -> HashSet<u64> {
        std::mem::take(&mut self.inodes.lock())
    }
}

impl Server {
    /// Has the kernel ask again for the blocks of `ino`, soon.
    pub(super) fn blocks_changed(self: Arc<Self>, ino: u64) {
        if !self.stale().add(ino) {
            return;
        }
        let server = Arc::clone(&self);
        let is_gathered = self.workers().run(move || {
            std::thread::sleep(GATHER);
            for ino in server.stale().take_all() {
                Notice::AskAgain(ino).send(server.kernel());
            }
        });
        if !is_gathered {
            // The next change is the first one again.
            self.stale().take_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_gathering_is_said_to_be_so() {
        let stale = Stale::default();
        assert!(stale.add(5));
        assert!(!stale.add(6));
        assert!(!stale.add(5));
        assert!(stale.take(5));
        assert!(!stale.take(5));
        assert_eq!(stale.take_all(), HashSet::from([6]));
        assert!(stale.add(6), "all were told");
    }
}
