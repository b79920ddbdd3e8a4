//! Whose turn it is to receive.
//!
//! Where receivers spin, one thread at a time looks at the device, and the others sleep where the
//! kernel does not see them: it would wake one for each request. The one whose turn it is keeps it
//! while it serves what takes no time, so that the next request finds it looking again.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
struct Turns {
    is_taken: Mutex<bool>,
    free: Condvar,
}

/// One thread's share in the turns of a channel.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    is_mine: Arc<AtomicBool>,
}

impl Turn {
    /// The share of another thread.
    pub(super) fn another(&self) -> Turn {
        Turn { turns: Arc::clone(&self.turns), is_mine: Arc::default() }
    }

    /// Waits for the turn, unless this thread still has it.
    pub(super) fn take(&self) {
        if self.is_mine.load(Ordering::Acquire) {
            return;
        }
        let mut is_taken = self.turns.is_taken.lock();
        self.turns.free.wait_while(&mut is_taken, |is_taken| *is_taken);
        *is_taken = true;
        self.is_mine.store(true, Ordering::Release);
    }

    /// Lets another thread have the turn, if this one has it.
    pub(super) fn give_up(&self) {
        if self.is_mine.swap(false, Ordering::AcqRel) {
            *self.turns.is_taken.lock() = false;
            self.turns.free.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn the_turn_is_kept_until_it_is_given_up_and_then_is_the_next_ones() {
        let (first, (told, heard)) = (Turn::default(), channel());
        first.take();
        first.take();
        let threads: Vec<_> = (0..3)
            .map(|number| {
                let (turn, told) = (first.another(), told.clone());
                std::thread::spawn(move || {
                    turn.take();
                    let _ = told.send(number);
                    turn.give_up();
                    // Nobody's turn is given up twice.
                    turn.give_up();
                })
            })
            .collect();
        assert!(heard.try_recv().is_err(), "the first thread has it");
        first.clone().give_up();
        let bound = Duration::from_secs(60);
        let mut had: Vec<i32> = (0..3).filter_map(|_| heard.recv_timeout(bound).ok()).collect();
        had.sort_unstable();
        assert_eq!(had, [0, 1, 2]);
        threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
        first.take();
    }
}
