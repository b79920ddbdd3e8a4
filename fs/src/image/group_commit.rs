//! Commits that are asked for together are made together.

use crate::errno::{Errno, Result};
use crate::mutant::{self, Mutant};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// One commit at a time, and one for all who wait for it.
#[derive(Debug, Default)]
pub struct GroupCommit {
    one: Mutex<()>,
    /// Commits begun, those that found nothing to do included.
    started: AtomicU64,
}

impl GroupCommit {
    /// Makes everything durable that was done before the call: by `commit`, or by somebody else's that began after the call.
    /// When it returns an error, `is_broken` says so from then on.
    ///
    /// # Errors
    /// Those of `commit`; EIO after one of them.
    pub fn run(
        &self,
        is_broken: impl Fn() -> bool,
        commit: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let before = self.started.load(SeqCst);
        let _one = self.one.lock();
        if is_broken() {
            return Err(Errno::EIO.into());
        }
        // A commit that was under way when we were called may have flushed before our data came;
        // one that began later, and is over because we hold the lock, has everything.
        if self.started.load(SeqCst) > before {
            return Ok(());
        }
        if mutant::is(Mutant::JoinRunningCommit) {
            commit()?;
            self.started.fetch_add(1, SeqCst);
            return Ok(());
        }
        self.started.fetch_add(1, SeqCst);
        commit()
    }

    /// Whether a commit is under way.
    pub fn is_running(&self) -> bool {
        self.one.is_locked()
    }

    /// Waits for a commit that is under way.
    pub fn settle(&self) {
        drop(self.one.lock());
    }
}
