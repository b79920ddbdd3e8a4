//! The stress run: everything at once on one file of any directory, without a gate.
//!
//! Lanes are threads, each with one way of doing I/O or one racing action, and play in bursts: some ten
//! operations each on a few shared pages, then all is quiet and the whole file is read in three ways. What a
//! reader may see is worked out by the [`oracle`]; where in time a racer starts is tuned by the [`sampler`],
//! and what overlapped what is counted by the [`tally`] from both sides' clocks.

pub mod actions;
pub mod board;
pub mod bursts;
pub mod case;
pub mod driver;
mod hand;
pub mod lane;
pub mod oracle;
pub mod readers;
pub mod sampler;
pub mod tally;
pub mod writers;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is under a lock, also when a lane panicked with it: that ends the run by itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
