//! The race harness: truncate, fork and their relatives against I/O that is in flight, on real mounts.
//!
//! A [`case::Case`] is one file of [`cases`]. A run has three kinds of processes: the runner ([`run`]) plans,
//! prints and judges by the table; the worker ([`worker`]) mounts targets and plays variants, and may be
//! lost to a wedged kernel path; the guard ([`session`]) removes what either leaves behind.

/// In place of the standard one, which panics when nobody reads.
macro_rules! println {
    () => { $crate::output::print_line(format_args!("")) };
    ($($arg:tt)*) => { $crate::output::print_line(format_args!($($arg)*)) };
}
/// In place of the standard one, which panics when nobody reads.
macro_rules! print {
    ($($arg:tt)*) => { $crate::output::print(format_args!($($arg)*)) };
}
/// In place of the standard one, which panics when nobody reads.
macro_rules! eprintln {
    ($($arg:tt)*) => { $crate::output::complain(format_args!($($arg)*)) };
}

pub mod borrow;
pub mod case;
pub mod cases;
pub mod cli;
pub mod console;
pub mod demo;
pub mod engine;
pub mod event;
pub mod expect;
pub mod fork;
pub mod frames;
pub mod image;
pub mod interrupt;
pub mod kernel;
pub mod kernels;
pub mod kmsg;
pub mod mapping;
pub mod matrix;
pub mod mechanisms;
pub mod memlock;
pub mod memory;
pub mod mutants;
pub mod nearest;
pub mod network;
pub mod observe;
pub mod output;
pub mod pagemap;
pub mod pins;
pub mod pipe;
pub mod plan;
pub mod probe;
pub mod raw_server;
pub mod report;
pub mod results;
pub mod run;
pub mod scene;
pub mod server;
pub mod session;
pub mod stacks;
pub mod stage;
pub mod stamp;
pub mod storm;
pub mod strip;
pub mod sys;
pub mod target;
pub mod touch;
pub mod variant;
pub mod verdict;
pub mod vm;
pub mod worker;
