//! The watchdog: a thread that ends rules and delays whose time is up, so that nobody keeps an
//! unkillable process because a test forgot it.

use std::sync::Arc;

use super::{Gate, GateError};

/// Starts the thread. It ends when the gate is shut down.
pub(super) fn start(gate: &Arc<Gate>) -> Result<(), GateError> {
    let gate = Arc::clone(gate);
    let watch = move || while gate.watch() {};
    std::thread::Builder::new()
        .name("gate-watchdog".to_owned())
        .spawn(watch)
        .map(drop)
        .map_err(|error| GateError::io("start the gate's watchdog", error))
}
