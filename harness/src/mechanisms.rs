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

use crate::kernel::{Kernel, Version};
use crate::observe::Seen;
use crate::session::Session;
use crate::stage::Stage;
use crate::target::Target;
use crate::verdict::Stop;
use crate::vm::machine::Accel;
use crate::vm::{self, source};

pub use document::document;
pub use table::ALL;

/// Exit code when an observation differs from what the table expects.
const DIFFERS: i32 = 1;

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

/// The cases, with their patterns, that the mechanisms named by `ids` play; of none named, those that all play.
pub fn cases(ids: &[String]) -> Vec<&'static str> {
    let wanted =
        |mechanism: &&Mechanism| ids.is_empty() || ids.iter().any(|id| mechanism.is_named(id));
    let case = |mechanism: &Mechanism| match mechanism.show {
        Show::Case(_, case) => Some(case),
        _ => None,
    };
    ALL.iter().filter(wanted).filter_map(case).collect()
}

/// Shows mechanisms: those that `ids` name (`2.1`, or `2` for all of a seed), or all. `said` hears of each as
/// it is done.
///
/// # Errors
/// An id that names none, or no session could be made.
pub fn show(ids: &[String], mut said: impl FnMut(&Mechanism, &Outcome)) -> anyhow::Result<Shown> {
    for id in ids {
        let known = ALL.iter().any(|mechanism| mechanism.is_named(id));
        anyhow::ensure!(known, "no mechanism {id}; see `mechanisms --list`");
    }
    let wanted =
        |mechanism: &&Mechanism| ids.is_empty() || ids.iter().any(|id| mechanism.is_named(id));
    let kernel = Kernel::running()?;
    let session = Session::new(&std::env::temp_dir())?;
    let mut stages = Stages { session: &session, made: Vec::new() };
    let mut rows = Vec::new();
    for mechanism in ALL.iter().filter(wanted) {
        let outcome = settle(mechanism, &kernel, stages.seen(mechanism));
        said(mechanism, &outcome);
        rows.push(Row { id: mechanism.id.to_owned(), outcome });
    }
    stages.strike();
    session.end()?;
    Ok(Shown { kernel, rows })
}

fn settle(mechanism: &Mechanism, kernel: &Kernel, seen: anyhow::Result<Seen>) -> Outcome {
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => match error.downcast_ref() {
            Some(Stop::NotRun(reason)) => return Outcome::Not(reason.clone()),
            _ => Seen::new("failed", format!("{error:#}")),
        },
    };
    match mechanism.expected_on(kernel) {
        Some(expected) if expected != seen.word => {
            Outcome::Differs { seen, expected: expected.to_owned() }
        }
        None if seen.word == "failed" || seen.word.contains("unexpected") => {
            Outcome::Differs { seen, expected: "what the case's table says".to_owned() }
        }
        _ => Outcome::Seen(seen),
    }
}

/// Mounted targets, each made when it is first needed.
struct Stages<'a> {
    session: &'a Session,
    made: Vec<(&'static str, Result<Stage, String>)>,
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
            Show::Command(command) => Err(crate::verdict::not_run(format!("see `{command}`"))),
            Show::Nothing(reason) => Err(crate::verdict::not_run(reason)),
        }
    }

    fn folder(&mut self, on: &'static str) -> anyhow::Result<std::path::PathBuf> {
        if !self.made.iter().any(|(name, _)| *name == on) {
            let target = Target::parse(on)?;
            // A server that does direct I/O itself pins pages too, and they would be counted.
            let options =
                if target == Target::Inflight { "read=buffered,write=buffered" } else { "" };
            let stage = Stage::set(&target, options, &self.session.root().join(on));
            let stage = match stage {
                Ok(stage) => Ok(stage),
                Err(error) => match error.downcast_ref() {
                    Some(Stop::NotRun(reason)) => Err(reason.clone()),
                    _ => return Err(error),
                },
            };
            self.made.push((on, stage));
        }
        let stage = self.made.iter().find(|(name, _)| *name == on).context("just made")?;
        match &stage.1 {
            Ok(stage) => Ok(stage.top().to_owned()),
            Err(reason) => Err(crate::verdict::not_run(reason.clone())),
        }
    }

    fn strike(&mut self) {
        for (_, stage) in &mut self.made {
            if let Ok(stage) = stage {
                stage.strike();
            }
        }
    }
}

/// What the command line asks for.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these: `3.2`, or `3` for all of a seed.
    ids: Vec<String>,
    /// Only the list: what each is, how it is reached, which command shows it.
    #[arg(long)]
    list: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// On these kernels, as `vm --kernel` takes them, or `host`; may be repeated (default: the host's own).
    #[arg(long, value_name = "SPEC")]
    kernel: Vec<String>,
    /// On the host's own kernel and on every one in the cache of scripts/kernels.
    #[arg(long, conflicts_with = "kernel")]
    kernels: bool,
    /// How guests' code is executed.
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accel,
    /// Also write the document: every mechanism by kernel.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "harness/MECHANISMS.md")]
    markdown: Option<std::path::PathBuf>,
}

impl Arguments {
    fn kernels(&self) -> Vec<String> {
        let host = || "host".to_owned();
        match &*self.kernel {
            [] if self.kernels => [host()].into_iter().chain(source::all()).collect(),
            [] => vec![host()],
            named => named.to_vec(),
        }
    }
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

/// Runs the command; gives its exit code.
///
/// # Errors
/// See [`show`].
pub fn run(arguments: &Arguments) -> anyhow::Result<i32> {
    if arguments.list {
        for mechanism in ALL {
            println!("{:<5} {}", mechanism.id, mechanism.what);
            println!("      reached by {}", mechanism.reach);
            match mechanism.show {
                Show::Nothing(reason) => println!("      not shown: {reason}"),
                _ => println!("      shown by {}", mechanism.command()),
            }
        }
        return Ok(0);
    }
    let (kernels, mut all) = (arguments.kernels(), Vec::new());
    for kernel in &kernels {
        let said = |mechanism: &Mechanism, outcome: &Outcome| {
            if !arguments.json {
                print(mechanism, outcome);
            }
        };
        match on(kernel, arguments, said) {
            Ok(shown) => all.push(shown),
            // The others are shown all the same.
            Err(error) if kernels.len() > 1 => eprintln!("inflight-race: {kernel}: {error:#}"),
            Err(error) => return Err(error),
        }
        if let Some(path) = &arguments.markdown {
            std::fs::write(path, document(&all)).with_context(|| path.display().to_string())?;
        }
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&all)?);
    }
    let mut rows = all.iter().flat_map(|shown| &shown.rows);
    let differs = rows.any(|row| matches!(row.outcome, Outcome::Differs { .. }));
    Ok(if differs { DIFFERS } else { 0 })
}

/// Shows what was asked for on one kernel.
fn on(
    kernel: &str,
    arguments: &Arguments,
    mut said: impl FnMut(&Mechanism, &Outcome),
) -> anyhow::Result<Shown> {
    if kernel == "host" {
        return show(&arguments.ids, said);
    }
    let options = vm::Options { kernel: kernel.to_owned(), modules: None, accel: arguments.accel };
    let shown = vm::mechanisms(&options, &arguments.ids)?;
    if !arguments.json {
        println!("{} {}", shown.kernel.release, shown.kernel.build);
    }
    for row in &shown.rows {
        let mechanism = ALL.iter().find(|mechanism| mechanism.id == row.id);
        said(mechanism.context("a mechanism that the guest does not know")?, &row.outcome);
    }
    Ok(shown)
}

fn print(mechanism: &Mechanism, outcome: &Outcome) {
    let text = match outcome {
        Outcome::Seen(seen) => seen.to_string(),
        Outcome::Differs { seen, expected } => format!("DIFFERS: {seen}; expected {expected}"),
        Outcome::Not(reason) => format!("- {reason}"),
    };
    println!("{:<5} {:<64} {text}", mechanism.id, mechanism.what);
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
                    let wanted = crate::plan::Wanted { cases, ..Default::default() };
                    assert!(!crate::plan::plan(&wanted).unwrap().is_empty(), "{mechanism:?}");
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
