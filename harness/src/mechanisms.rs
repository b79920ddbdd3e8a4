//! `inflight-race mechanisms`: one row for each mechanism that the seed documents name, with what shows it
//! from user space and what is seen on this kernel.
//!
//! A row names the observations that are expected, by the first kernel that must show them; one that differs
//! is an error. What no user-space path reaches says why.

mod document;
mod played;
mod table;

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::kit::kernel::{Kernel, Version};
use crate::kit::nearest::nearest;
use crate::kit::verdict::{Stop, Verdict};
use crate::observe::Seen;
use crate::target::Target;
use crate::target::mounted::Mounted;
use crate::target::session::Session;

pub use document::document;
pub use table::ALL;

/// How a mechanism is shown.
#[derive(Clone, Copy)]
pub enum Show {
    /// By an observation that needs no filesystem.
    Kernel(fn() -> anyhow::Result<Seen>),
    /// By an observation in a folder on a target: `inflight`, `ext4`, `tmpfs`, `overlay`.
    Folder(&'static str, fn(&Path) -> anyhow::Result<Seen>),
    /// By a case, named as for `run`, on a target.
    Case(&'static str, &'static str),
    /// By another command.
    Command(&'static str),
    /// By nothing, for this reason.
    Nothing(&'static str),
}

/// One mechanism.
#[derive(Clone, Copy)]
pub struct Mechanism {
    /// Seed document (0 to 4) and a number in it.
    pub id: &'static str,
    /// What it is.
    pub what: &'static str,
    /// How user space reaches it.
    pub reach: &'static str,
    /// What shows it.
    pub show: Show,
    /// What must be seen, each from a kernel on, oldest first. Empty where there is no table (cases have
    /// their own).
    pub expected: &'static [(Version, &'static str)],
}

impl std::fmt::Debug for Mechanism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.id, self.what)
    }
}

impl Mechanism {
    fn is_named(&self, id: &str) -> bool {
        self.id == id || self.id.split_once('.').is_some_and(|(seed, _)| seed == id)
    }

    /// What must be seen on a kernel, if the table says.
    pub fn expected_on(&self, kernel: &Kernel) -> Option<&'static str> {
        let version = kernel.version();
        let rows = self.expected.iter().rev();
        rows.copied().find(|(since, _)| version >= *since).map(|(_, word)| word)
    }

    /// The command that shows it.
    pub fn command(&self) -> String {
        match self.show {
            Show::Kernel(_) | Show::Folder(..) => format!("inflight-race mechanisms {}", self.id),
            Show::Case(on, cases) => format!("inflight-race run '{cases}' --on {on}"),
            Show::Command(command) => command.to_owned(),
            Show::Nothing(_) => String::new(),
        }
    }
}

/// What came of a mechanism.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was seen, as expected or where nothing is expected.
    Seen(Seen),
    /// Something else was seen than the table expects.
    Differs {
        /// What was seen.
        seen: Seen,
        /// What was expected.
        expected: String,
    },
    /// It cannot be shown here, for this reason.
    Not(String),
    /// It could not be observed although it should have been: what failed. Nothing is said about the kernel.
    Failed(String),
}

impl Outcome {
    /// The verdict of a case that came to the same, so that exit codes mean the same.
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Outcome::Seen(_) => Verdict::Pass,
            Outcome::Differs { .. } => Verdict::Fail { classes: Vec::new() },
            Outcome::Not(reason) => Verdict::Notrun { reason: reason.clone() },
            Outcome::Failed(reason) => Verdict::Broken { reason: reason.clone() },
        }
    }
}

/// A row of the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The mechanism's id.
    pub id: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// All rows of one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The kernel.
    pub kernel: Kernel,
    /// One row for each mechanism asked for.
    pub rows: Vec<Row>,
}

/// Whether every id names a mechanism, or all of a seed.
///
/// # Errors
/// One that names none, with the nearest.
pub fn check(ids: &[String]) -> anyhow::Result<()> {
    let known = |id: &&String| ALL.iter().any(|mechanism| mechanism.is_named(id));
    let Some(id) = ids.iter().find(|id| !known(id)) else { return Ok(()) };
    let near = nearest(id, ALL.iter().map(|mechanism| mechanism.id));
    anyhow::bail!("no mechanism {id}; nearest: {near}; `mechanisms --list` shows all")
}

/// The mechanisms that `ids` name; of none named, all.
pub(crate) fn named(ids: &[String]) -> impl Iterator<Item = &'static Mechanism> {
    ALL.iter().filter(move |one| ids.is_empty() || ids.iter().any(|id| one.is_named(id)))
}

/// The cases, with their patterns, that the mechanisms named by `ids` play; of none named, those that all play.
pub fn cases(ids: &[String]) -> Vec<&'static str> {
    let case = |mechanism: &Mechanism| match mechanism.show {
        Show::Case(_, case) => Some(case),
        _ => None,
    };
    named(ids).filter_map(case).collect()
}

/// Shows mechanisms: those that `ids` name (`2.1`, or `2` for all of a seed), or all. `said` hears of each as
/// it is done.
///
/// # Errors
/// An id that names none, or no session could be made.
pub fn show(ids: &[String], mut said: impl FnMut(&Mechanism, &Outcome)) -> anyhow::Result<Shown> {
    check(ids)?;
    let kernel = Kernel::running()?;
    let session = Session::new(&std::env::temp_dir())?;
    let mut targets = Stages { session: &session, made: Vec::new() };
    let mut rows = Vec::new();
    for mechanism in named(ids) {
        let outcome = settle(mechanism, &kernel, targets.seen(mechanism));
        said(mechanism, &outcome);
        rows.push(Row { id: mechanism.id.to_owned(), outcome });
    }
    targets.teardown();
    session.end()?;
    Ok(Shown { kernel, rows })
}

/// Shows mechanisms to the host of a guest: one line of JSON.
///
/// # Errors
/// See [`show`].
pub fn relay(ids: &[String]) -> anyhow::Result<()> {
    let shown = show(ids, |_, _| ())?;
    println!("{}", serde_json::to_string(&shown)?);
    Ok(())
}

fn settle(mechanism: &Mechanism, kernel: &Kernel, seen: anyhow::Result<Seen>) -> Outcome {
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => match error.downcast_ref() {
            Some(Stop::NotRun(reason)) => return Outcome::Not(reason.clone()),
            _ => return Outcome::Failed(format!("{error:#}")),
        },
    };
    match mechanism.expected_on(kernel) {
        Some(expected) if expected != seen.word => {
            Outcome::Differs { seen, expected: expected.to_owned() }
        }
        None if seen.word.contains("unexpected") => {
            Outcome::Differs { seen, expected: "what the case's table says".to_owned() }
        }
        _ => Outcome::Seen(seen),
    }
}

/// Mounted targets, each made when it is first needed.
struct Stages<'a> {
    session: &'a Session,
    made: Vec<(&'static str, Result<Mounted, String>)>,
}

impl Stages<'_> {
    fn seen(&mut self, mechanism: &Mechanism) -> anyhow::Result<Seen> {
        match mechanism.show {
            Show::Kernel(observe) => observe(),
            Show::Folder(on, observe) => {
                let folder = self.folder(on)?;
                observe(&folder)
            }
            Show::Case(on, cases) => played::play(on, cases),
            Show::Command(command) => Err(crate::kit::verdict::not_run(format!("see `{command}`"))),
            Show::Nothing(reason) => Err(crate::kit::verdict::not_run(reason)),
        }
    }

    fn folder(&mut self, on: &'static str) -> anyhow::Result<std::path::PathBuf> {
        if !self.made.iter().any(|(name, _)| *name == on) {
            let target = Target::parse(on)?;
            // A server that does direct I/O itself, here or below a loop device, pins pages too, and they would be counted.
            let options = "read=buffered,write=buffered";
            let mounted = Mounted::new(&target, options, &self.session.root().join(on));
            let mounted = match mounted {
                Ok(mounted) => Ok(mounted),
                Err(error) => match error.downcast_ref() {
                    Some(Stop::NotRun(reason)) => Err(reason.clone()),
                    _ => return Err(error),
                },
            };
            self.made.push((on, mounted));
        }
        let mounted = self.made.iter().find(|(name, _)| *name == on).context("just made")?;
        match &mounted.1 {
            Ok(mounted) => Ok(mounted.top().to_owned()),
            Err(reason) => Err(crate::kit::verdict::not_run(reason.clone())),
        }
    }

    fn teardown(&mut self) {
        for (_, mounted) in &mut self.made {
            if let Ok(mounted) = mounted {
                mounted.teardown();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_rows_of_the_table_are_in_order() {
        let mut ids: Vec<_> = ALL.iter().map(|mechanism| mechanism.id).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
        for mechanism in ALL {
            assert!(mechanism.expected.is_sorted_by_key(|(since, _)| *since), "{mechanism:?}");
        }
    }

    #[test]
    fn the_cases_and_targets_that_are_named_exist() {
        for mechanism in ALL {
            match mechanism.show {
                Show::Case(on, cases) => {
                    Target::parse(on).unwrap();
                    let cases = vec![cases.to_owned()];
                    let wanted = crate::run::plan::Wanted { cases, ..Default::default() };
                    assert!(!crate::run::plan::plan(&wanted).unwrap().is_empty(), "{mechanism:?}");
                }
                Show::Folder(on, _) => drop(Target::parse(on).unwrap()),
                _ => {}
            }
        }
    }

    #[test]
    fn the_youngest_row_that_is_not_too_young_counts() {
        let mechanism = ALL.iter().find(|mechanism| mechanism.id == "0.1").unwrap();
        let on = |release: &str| {
            let kernel = Kernel {
                release: release.to_owned(),
                build: String::new(),
                machine: String::new(),
            };
            mechanism.expected_on(&kernel)
        };
        assert_eq!(
            (on("6.4.9"), on("6.5.0"), on("7.2.1")),
            (Some("there"), Some("gone"), Some("gone"))
        );
    }
}
