//! A fixture: what a case gets while one of its variants is played, with or without the race.

mod aside;
mod files;
mod gate;
mod io;
mod known;
mod notify;
mod pages;
mod passed;
pub mod raw_server;
pub mod touch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

pub use aside::Aside;
pub use files::{Open, Stamped, forget_pages};
pub use gate::{Change, Order, Parked};
pub use known::Known;
pub use pages::ROUNDS;

use crate::kit::engine::{Done, Engines};
use crate::kit::event::{Actor, Event};
use crate::kit::seen::Seen;
use crate::kit::stamp::{self, Legal};
use crate::kit::strip::{self, Strip};
use crate::kit::verdict::{Class, Fault};
use crate::target::mounted::Mounted;

/// How long a stress run lasts unless it is told.
pub const STRESS: Duration = Duration::from_secs(5);

/// See the [module](self).
#[derive(Debug)]
pub struct Fixture<'a> {
    mounted: &'a mut Mounted,
    engines: &'a mut Engines,
    race: bool,
    seed: u64,
    folder: PathBuf,
    files: u64,
    /// Open as long as the fixture: closing one might send a request.
    kept: Vec<std::fs::File>,
    first_id: u64,
    /// Node ids by inode number, where they differ.
    nodes: std::collections::HashMap<u64, u64>,
    /// Where the gate's log stood when the fixture began.
    log_from: u64,
    /// How long a stress run may last.
    pub time: Duration,
    /// What it is mounted with: the run's options and the variant's own.
    pub options: String,
    /// What is known to fail here: the bugs that a stress run goes on after.
    pub known: Known,
    /// What the kernel held back until the I/O was over, if it did: then there was no race.
    pub held_back: Option<String>,
    /// Harm seen so far.
    pub faults: Vec<Fault>,
    /// Judged ranges in which there is harm.
    pub strips: Vec<Strip>,
    /// What was seen of the kernel or the filesystem, in a word.
    pub seen: Option<Seen>,
    /// Remarks that explain a verdict and never make one.
    pub notes: Vec<String>,
    /// What happened.
    pub events: Vec<Event>,
}

impl<'a> Fixture<'a> {
    /// A fixture in a fresh folder of the target.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(
        mounted: &'a mut Mounted,
        engines: &'a mut Engines,
        number: u64,
        race: bool,
        seed: u64,
    ) -> anyhow::Result<Fixture<'a>> {
        let folder = mounted.top().join(Fixture::folder_name(number));
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let first_id = number * 1000;
        let log_from = match mounted.gate() {
            Ok(gate) => gate.log(u64::MAX, 0, Duration::ZERO)?.next,
            Err(_) => 0,
        };
        let (faults, strips, seen, notes, events) = Default::default();
        Ok(Fixture {
            mounted,
            engines,
            race,
            seed,
            folder,
            files: 0,
            kept: Vec::new(),
            first_id,
            nodes: std::collections::HashMap::new(),
            log_from,
            time: STRESS,
            options: String::new(),
            known: Known::default(),
            held_back: None,
            faults,
            strips,
            seen,
            notes,
            events,
        })
    }

    /// Name of a fixture's folder on the target.
    pub fn folder_name(number: u64) -> String {
        format!("s{number}")
    }

    /// Whether the race is on; without it, this is the control.
    pub fn race(&self) -> bool {
        self.race
    }

    /// Whether it is mounted with this option.
    pub fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|part| part == option)
    }

    /// Seed of this fixture: the run's, and the same whenever the variant is played alone with it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A fresh folder on the target.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The mounted target.
    pub fn mounted(&mut self) -> &mut Mounted {
        self.mounted
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

    /// Writes down what was seen, in a word that tables compare.
    pub fn see(&mut self, seen: Seen) {
        self.note(format!("seen: {seen}"));
        self.seen = Some(seen);
    }

    /// Writes down that the racer had to wait until the I/O was over, and where: a race that finds nothing is SERIALISED.
    pub fn serialised<T>(&mut self, racer: &Aside<T>) {
        let text = racer.waiting();
        self.event(Actor::Racer, text.clone());
        self.held_back.get_or_insert(text);
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
