//! What a worker is told, and what it tells, line by line.

use std::io::Write;
use std::time::Duration;

use inflight_gate::Record;
use serde::{Deserialize, Serialize};

use crate::kit::event::Event;
use crate::kit::seen::Seen;
use crate::kit::strip::Strip;
use crate::kit::verdict::{Class, Fault};
use crate::run::plan::Item;
use crate::run::table::Row;
use crate::target::Target;

/// What a worker is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// On what.
    pub target: Target,
    /// Which variants.
    pub items: Vec<Item>,
    /// Mount options of every mount.
    pub options: String,
    /// Seed of the run.
    pub seed: u64,
    /// How long a stress run may last.
    pub time: Duration,
    /// Without the table of expected failures.
    pub raw: bool,
    /// Rows of one's own for it.
    pub own: Vec<Row>,
}

/// What a worker says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// It starts with an item.
    Started {
        /// The item's number.
        number: u64,
    },
    /// It is done with an item.
    Finished {
        /// The item's number.
        number: u64,
        /// What came of it.
        played: Box<Played>,
        /// Something may still hang in the worker: it plays nothing more, and waits to be ended.
        #[serde(default)]
        spoilt: bool,
    },
}

/// What came of a variant, before the table of expected failures is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Played {
    /// Why nothing was judged, if nothing was.
    pub stop: Option<Stopped>,
    /// Harm.
    pub faults: Vec<Fault>,
    /// Judged ranges in which there is harm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strips: Vec<Strip>,
    /// What was seen of the kernel or the filesystem, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// Remarks.
    pub notes: Vec<String>,
    /// Timeline of the race.
    pub events: Vec<Event>,
    /// The gate's records of the race.
    pub records: Vec<Record>,
    /// CLOCK_MONOTONIC at which the gate started: the zero of the records' times.
    pub gate_start_ns: u64,
    /// Seconds for the race.
    pub seconds: f64,
    /// Seconds for the control.
    pub control_seconds: f64,
}

/// Why nothing was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// It cannot be run here.
    NotRun(String),
    /// The window did not overlap.
    NoProof(String),
    /// The kernel held the racer back until the I/O was over.
    Serialised(String),
    /// The setup failed.
    Broken(String),
}

impl Played {
    /// What was seen proves nothing against the subject, but for what its kernel says of itself.
    pub(super) fn void(&mut self) {
        let (kept, void) = std::mem::take(&mut self.faults)
            .into_iter()
            .partition(|fault| fault.class == Class::KernelLog);
        self.faults = kept;
        let note = |fault: Fault| format!("void: {}: {}", fault.class.name(), fault.text);
        self.notes.extend(Vec::into_iter(void).map(note));
    }
}

/// Says one line on standard output.
///
/// # Errors
/// Nobody listens.
pub fn say(line: &Line) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&text)?;
    Ok(out.flush()?)
}
