//! What happened when, for the timeline of a variant.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Actor {
    /// The thread or engine whose I/O is in flight.
    Test,
    /// What races with it.
    Racer,
    /// The harness at the gate.
    Gate,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// CLOCK_MONOTONIC in ns: the same axis as the gate's records plus its start.
    pub at_ns: u64,
    /// Who.
    pub actor: Actor,
    /// What.
    pub text: String,
}

impl Event {
    /// Something that happens now.
    pub fn now(actor: Actor, text: impl Into<String>) -> Event {
        Event { at_ns: now_ns(), actor, text: text.into() }
    }
}

/// CLOCK_MONOTONIC in ns.
///
/// # Panics
/// When the system has no such clock, which Linux always has.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has CLOCK_MONOTONIC");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
