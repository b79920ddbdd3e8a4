//! Wall time for people to read.

use nix::time::{ClockId, clock_gettime};

/// A time since 1970 in the manner of RFC 3339; years may have more than four digits.
pub fn utc(secs: i64, nanos: u32) -> String {
    let (days, second) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Nanoseconds since 1970 when CLOCK_MONOTONIC was 0: what makes wall time of its times, as long as nobody sets the clock.
pub fn monotonic_epoch_ns() -> i64 {
    let read = |clock| {
        let now = clock_gettime(clock).expect("Linux has both clocks");
        now.tv_sec() * 1_000_000_000 + now.tv_nsec()
    };
    read(ClockId::CLOCK_REALTIME) - read(ClockId::CLOCK_MONOTONIC)
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar. Years begin in March
/// here, so that the leap day is the last one; 719468 days lie between 0000-03-01 and 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + carry, month, day)
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
    }
}
