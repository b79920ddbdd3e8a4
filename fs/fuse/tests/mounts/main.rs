//! The same tests on each way of requests, over real mounts. As root with /dev/fuse none of them
//! may be left out.

mod checks;
mod lifecycle;
mod memfs;
mod mounted;
mod queues;
mod ways;

use mounted::Transport;

macro_rules! on_each {
    ($($check:ident),* $(,)?) => {
        mod dev { $(#[test] fn $check() { crate::checks::$check(crate::Transport::Dev) })* }
        mod spinning { $(#[test] fn $check() { crate::checks::$check(crate::Transport::Spinning) })* }
        mod uring { $(#[test] fn $check() { crate::checks::$check(crate::Transport::Uring) })* }
        mod pair { $(#[test] fn $check() { crate::checks::$check(crate::Transport::Pair) })* }
    };
}

on_each! {
    what_is_written_is_read,
    data_of_direct_writes_come_aligned,
    a_thousand_entries_are_listed,
    names_move_and_go,
    times_before_1970_come_back,
    statx_knows_the_birth,
    a_file_without_a_name_is_made,
    an_unknown_ioctl_is_refused,
    many_threads_do_not_mix,
    another_thread_answers_later,
    a_killed_client_is_told_and_leaves,
    an_abort_ends_everything,
    notifications_arrive,
}
