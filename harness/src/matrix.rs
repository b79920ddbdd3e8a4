//! The matrix: kinds of memory × ways of I/O × phases × racing actions, as data.
//!
//! Four lists make a product ([`Cell`]); the rules ([`rule::RULES`]) take out what means nothing, each with its reason,
//! and what is left is played as the variants of case MX. What is legal afterwards is in [`oracle`].

pub mod action;
pub mod buffer;
mod cancel;
pub mod case;
pub mod io;
mod judge;
pub mod list;
pub mod oracle;
pub mod play;
pub mod rule;

use std::sync::LazyLock;

use inflight_gate::Phase;

use action::Action;
use buffer::Kind;
use io::Op;

/// One combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// What races.
    pub action: Action,
    /// What is in flight.
    pub op: Op,
    /// The memory that it goes to or comes from.
    pub kind: Kind,
    /// Where the request is parked.
    pub phase: Phase,
}

impl Cell {
    /// E.g. `fork/read.uring.direct/anon/applied`.
    pub fn name(&self) -> String {
        let parts = [self.action.name(), &self.op.name(), self.kind.name(), self.phase.name()];
        parts.join("/")
    }

    /// Mount that it needs to itself.
    pub fn ruins_mount(&self) -> bool {
        self.action == Action::Abort
    }
}

/// Where a request is held: by the server, and by the kernel in the middle of its copy. (While one is queued nothing else is
/// served, so hardly an action can be played: cases of their own do it.)
fn phases() -> impl Iterator<Item = Phase> {
    Phase::ALL.into_iter().chain([Phase::Copying])
}

/// Every combination, with the rule that takes it out, if one does.
pub fn product() -> impl Iterator<Item = (Cell, Option<&'static rule::Rule>)> {
    let cells = Op::all().into_iter().flat_map(|op| {
        Kind::ALL.into_iter().flat_map(move |kind| {
            phases().flat_map(move |phase| {
                Action::ALL.into_iter().map(move |action| Cell { action, op, kind, phase })
            })
        })
    });
    cells.map(|cell| (cell, rule::against(&cell)))
}

/// The combinations that are played.
pub fn cells() -> &'static [Cell] {
    static CELLS: LazyLock<Vec<Cell>> = LazyLock::new(|| {
        product().filter(|(_, rule)| rule.is_none()).map(|(cell, _)| cell).collect()
    });
    &CELLS
}
