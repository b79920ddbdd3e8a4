//! A scene: what a case gets while one of its variants is played, with or without the race.

mod aside;
mod files;
mod gate;
mod io;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

pub use aside::Aside;
pub use files::{Open, Stamped, forget_pages};
pub use gate::Parked;

use crate::engine::{Done, Engines};
use crate::event::{Actor, Event};
use crate::stage::Stage;
use crate::stamp::{self, Legal};
use crate::strip::{self, Strip};
use crate::verdict::{Class, Fault};

/// Longest that anything may take that must happen. Its end is a HANG or BROKEN, never a pass.
pub const BOUND: Duration = Duration::from_secs(10);

/// Longest that a request may take to come to the gate.
pub const RENDEZVOUS: Duration = Duration::from_secs(5);

/// How long something may take that may also have to wait for what is parked.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// How long a storm lasts unless it is told.
pub const STORM: Duration = Duration::from_secs(5);

/// See the [module](self).
#[derive(Debug)]
pub struct Scene<'a> {
    stage: &'a mut Stage,
    engines: &'a mut Engines,
    race: bool,
    seed: u64,
    folder: PathBuf,
    files: u64,
    first_id: u64,
    /// Node ids by inode number, where they differ.
    nodes: std::collections::HashMap<u64, u64>,
    /// Where the gate's log stood when the scene began.
    log_from: u64,
    /// How long a storm may last.
    pub time: Duration,
    /// Harm seen so far.
    pub faults: Vec<Fault>,
    /// Judged ranges in which there is harm.
    pub strips: Vec<Strip>,
    /// Remarks that explain a verdict and never make one.
    pub notes: Vec<String>,
    /// What happened.
    pub events: Vec<Event>,
}

impl<'a> Scene<'a> {
    /// A scene in a fresh folder of the target.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(
        stage: &'a mut Stage,
        engines: &'a mut Engines,
        number: u64,
        race: bool,
        seed: u64,
    ) -> anyhow::Result<Scene<'a>> {
        let folder = stage.top().join(Scene::folder_name(number));
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let first_id = number * 1000;
        let log_from = match stage.gate() {
            Ok(gate) => gate.log(u64::MAX, 0, Duration::ZERO)?.next,
            Err(_) => 0,
        };
        let (faults, strips, notes, events) = Default::default();
        Ok(Scene {
            stage,
            engines,
            race,
            seed,
            folder,
            files: 0,
            first_id,
            nodes: std::collections::HashMap::new(),
            log_from,
            time: STORM,
            faults,
            strips,
            notes,
            events,
        })
    }

    /// Name of a scene's folder on the target.
    pub fn folder_name(number: u64) -> String {
        format!("s{number}")
    }

    /// Whether the race is on; without it, this is the control.
    pub fn race(&self) -> bool {
        self.race
    }

    /// Seed of this scene: the run's, and the same whenever the variant is played alone with it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A fresh folder on the target.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The mounted target.
    pub fn stage(&mut self) -> &mut Stage {
        self.stage
    }

    /// The engines.
    pub fn engines(&mut self) -> &mut Engines {
        self.engines
    }

    /// Writes down that something happens now.
    pub fn event(&mut self, actor: Actor, text: impl Into<String>) {
        self.events.push(Event::now(actor, text));
    }

    /// Writes down an observation.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Writes down harm.
    pub fn fault(&mut self, class: Class, text: impl Into<String>) {
        self.faults.push(Fault { class, text: text.into() });
    }

    /// Judges what a reader saw of a file from `offset` on.
    pub fn judge(&mut self, what: &str, data: &[u8], offset: u64, legal: &[Legal]) {
        self.faults.extend(stamp::judge(what, data, offset, legal));
        if self.strips.len() < strip::MOST {
            self.strips.extend(Strip::of(what, data, offset, legal));
        }
    }

    /// Holds an I/O's result against the count that it must have; `true` when it has it.
    pub fn count(&mut self, what: &str, done: Done, wanted: usize) -> bool {
        match done {
            Ok(count) if count == wanted => return true,
            Ok(count) => {
                self.fault(Class::Short, format!("{what}: returned {count}, must be {wanted}"));
            }
            Err(errno) => {
                self.fault(Class::Errno, format!("{what}: {errno}, must return {wanted}"));
            }
        }
        false
    }
}
