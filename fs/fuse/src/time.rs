//! Times as FUSE carries them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: `seconds` since 1970, negative before, and `nanos` (0 to 999,999,999) that
/// always count forwards. Half a second before 1970 is `-1 s + 500,000,000 ns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds since 1970-01-01, rounded down.
    pub seconds: i64,
    /// Nanoseconds after them.
    pub nanos: u32,
}

/// Nanoseconds in a second.
const SECOND: u32 = 1_000_000_000;

impl Time {
    /// From what a message holds: seconds as two's complement. Nanoseconds of a second or more,
    /// which no kernel sends, become the last one of the second, as the kernel does with ours.
    pub(crate) fn from_wire(seconds: u64, nanos: u32) -> Time {
        Time { seconds: seconds as i64, nanos: nanos.min(SECOND - 1) }
    }

    pub(crate) fn wire_seconds(self) -> u64 {
        self.seconds as u64
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Time {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Time {
                seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanos: after.subsec_nanos(),
            },
            Err(before) => {
                let before = before.duration();
                let seconds = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Time { seconds, nanos: 0 },
                    nanos => Time { seconds: seconds.saturating_sub(1), nanos: SECOND - nanos },
                }
            }
        }
    }
}

impl From<Time> for SystemTime {
    /// Saturates to 1970 where the platform has no such time.
    fn from(time: Time) -> SystemTime {
        let whole = Duration::from_secs(time.seconds.unsigned_abs());
        let second = match time.seconds {
            0.. => UNIX_EPOCH.checked_add(whole),
            _ => UNIX_EPOCH.checked_sub(whole),
        };
        let nanos = Duration::from_nanos(time.nanos.into());
        second.and_then(|second| second.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_second_before_1970_counts_forwards() {
        let time = UNIX_EPOCH - Duration::from_millis(500);
        assert_eq!(Time::from(time), Time { seconds: -1, nanos: 500_000_000 });
        assert_eq!(SystemTime::from(Time::from(time)), time);
    }

    #[test]
    fn whole_seconds_before_1970_have_no_nanoseconds() {
        let time = UNIX_EPOCH - Duration::from_secs(3);
        assert_eq!(Time::from(time), Time { seconds: -3, nanos: 0 });
        assert_eq!(SystemTime::from(Time { seconds: -3, nanos: 0 }), time);
    }

    #[test]
    fn seconds_are_signed_in_a_message() {
        let time = Time::from_wire(u64::MAX, 7);
        assert_eq!(time, Time { seconds: -1, nanos: 7 });
        assert_eq!(time.wire_seconds(), u64::MAX);
        assert_eq!(Time::from_wire(0, u32::MAX).nanos, 999_999_999);
    }
}
