//! Pauses between two looks at what cannot wake us: a mount's last user, a process that is not our child, a counter.

use std::time::Duration;

/// As short as the timers of the kernel make a difference.
const FIRST: Duration = Duration::from_micros(50);
/// So that nothing is seen late, and a wait of seconds costs no processor.
const LONGEST: Duration = Duration::from_millis(5);

/// Each pause is twice as long as the one before, up to 5 ms.
#[derive(Debug)]
pub struct Pause(Duration);

impl Default for Pause {
    fn default() -> Pause {
        Pause(FIRST)
    }
}

impl Pause {
    /// Lets a moment pass. Whoever looks again has a bound of its own.
    pub fn rest(&mut self) {
        std::thread::sleep(self.0);
        self.0 = (self.0 * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut pause = Pause::default();
        for wanted in [100, 200, 400] {
            pause.rest();
            assert_eq!(pause.0, Duration::from_micros(wanted));
        }
        (0..10).for_each(|_| pause.rest());
        assert_eq!(pause.0, LONGEST);
    }
}
