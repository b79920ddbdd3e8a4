//! Wall time for people to read.

use chrono::{DateTime, SecondsFormat};
use nix::time::{ClockId, clock_gettime};

/// A time since 1970 in the manner of RFC 3339; where a calendar has no name for it (some 262,000 years from now), the
/// seconds alone.
pub fn utc(secs: i64, nanos: u32) -> String {
    match DateTime::from_timestamp(secs, nanos) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::Nanos, true),
        None => format!("{secs}.{nanos:09} s since 1970"),
    }
}

/// Nanoseconds since 1970 when CLOCK_MONOTONIC was 0: what makes wall time of its times, as long as nobody sets the clock.
pub fn monotonic_epoch_ns() -> i64 {
    let read = |clock| {
        let now = clock_gettime(clock).expect("Linux has both clocks");
        now.tv_sec() * 1_000_000_000 + now.tv_nsec()
    };
    read(ClockId::CLOCK_REALTIME) - read(ClockId::CLOCK_MONOTONIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable_before_1970_and_past_2038() {
        let at = |secs| utc(secs, 5);
        assert_eq!(at(0), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(at(-1), "1969-12-31T23:59:59.000000005Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(at(1 << 31), "2038-01-19T03:14:08.000000005Z");
        assert_eq!(at(13_000_000_000), "2381-12-14T23:06:40.000000005Z");
        assert_eq!(at(i64::MAX), "9223372036854775807.000000005 s since 1970");
    }
}
