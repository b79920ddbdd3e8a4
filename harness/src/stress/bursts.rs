//! Bursts: all lanes of a stress run play between two moments at which none does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::lock;
use super::tally::Span;

/// See the [module](self).
#[derive(Debug)]
pub struct Bursts {
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug)]
struct State {
    round: u64,
    /// Lanes that take part.
    lanes: usize,
    /// Lanes that have not arrived at the end of this burst.
    out: usize,
    over: bool,
    spans: Vec<Span>,
}

impl Bursts {
    /// Lanes count as out until they arrive for the first time.
    pub fn new(lanes: usize) -> Bursts {
        let state = State { round: 0, lanes, out: lanes, over: false, spans: Vec::new() };
        Bursts { state: Mutex::new(state), changed: Condvar::new(), stop: AtomicBool::new(false) }
    }

    /// A lane has arrived with its spans, and waits for the next burst; `false` when there is none.
    pub fn arrive(&self, spans: Vec<Span>) -> bool {
        let mut state = lock(&self.state);
        state.out -= 1;
        state.spans.extend(spans);
        self.changed.notify_all();
        let round = state.round;
        while state.round == round && !state.over {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.over
    }

    /// A lane does not take part any more; it must not be waiting.
    pub fn leave(&self) {
        let mut state = lock(&self.state);
        state.lanes -= 1;
        state.out -= 1;
        self.changed.notify_all();
    }

    /// Waits until all have arrived; gives what they did, or `None` when they did not come in time.
    pub fn quiesce(&self, bound: Duration) -> Option<Vec<Span>> {
        let end = Instant::now() + bound;
        let mut state = lock(&self.state);
        while state.out > 0 {
            let left = end.checked_duration_since(Instant::now())?;
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(std::mem::take(&mut state.spans))
    }

    /// The next burst, of all lanes that are left; how many they are.
    pub fn start(&self) -> usize {
        let mut state = lock(&self.state);
        state.round += 1;
        state.out = state.lanes;
        self.changed.notify_all();
        state.lanes
    }

    /// No burst any more: who waits goes home.
    pub fn end(&self) {
        lock(&self.state).over = true;
        self.changed.notify_all();
    }

    /// This burst is to end as soon as can be.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Whether it is.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(10);

    #[test]
    fn lanes_play_burst_by_burst_and_may_leave() {
        let bursts = Bursts::new(3);
        std::thread::scope(|scope| {
            for lane in 0..3 {
                let bursts = &bursts;
                scope.spawn(move || {
                    let mut rounds = 0;
                    while bursts.arrive(Vec::new()) {
                        rounds += 1;
                        if lane == 2 && rounds == 2 {
                            return bursts.leave();
                        }
                    }
                });
            }
            for wanted in [3, 3, 2, 2] {
                assert!(bursts.quiesce(BOUND).is_some());
                assert_eq!(bursts.start(), wanted);
            }
            assert!(bursts.quiesce(BOUND).is_some());
            bursts.end();
        });
    }

    #[test]
    fn a_lane_that_does_not_come_is_noticed() {
        let bursts = Bursts::new(1);
        assert!(bursts.quiesce(Duration::from_millis(1)).is_none());
    }
}
