//! The race harness: truncate, fork and their relatives against I/O that is in flight, on real mounts.
//!
//! A [`cases::case::Case`] is one file of [`cases`]. A run has three kinds of processes: the runner ([`run`]) plans,
//! prints and judges by the table; the worker ([`run::worker`]) mounts targets and plays variants, and may be
//! lost to a wedged kernel path; the guard ([`target::session`]) removes what either leaves behind.
//!
//! Modules import downwards only, in the order below from its end to its beginning; `tests/layers.rs` says so.

/// In place of the standard one, which panics when nobody reads.
macro_rules! println {
    () => { $crate::kit::output::print_line(format_args!("")) };
    ($($arg:tt)*) => { $crate::kit::output::print_line(format_args!($($arg)*)) };
}
/// In place of the standard one, which panics when nobody reads.
macro_rules! print {
    ($($arg:tt)*) => { $crate::kit::output::print(format_args!($($arg)*)) };
}
/// In place of the standard one, which panics when nobody reads.
macro_rules! eprintln {
    ($($arg:tt)*) => { $crate::kit::output::complain(format_args!($($arg)*)) };
}

pub mod cli;
pub mod vm;

pub mod mechanisms;
pub mod probe;

pub mod report;

pub mod run;

pub mod matrix;
pub mod stress;

pub mod cases;

pub mod fixture;

pub mod target;

pub mod kit;
