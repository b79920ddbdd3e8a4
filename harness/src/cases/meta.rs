//! The harness itself: cases that must fail, hang and skip.

cases! {
    meta_fail,
    meta_hang,
    meta_skip,
    meta_control,
    meta_watchdog,
}
