//! `inflight-race mechanisms`: one row for each mechanism that the seed documents name, with what shows it
//! from user space and what is seen on this kernel.
//!
//! What shows it are cases, played by the runner and judged as in any run; one that is not as it must be under this kernel is
//! an error. What no user-space path reaches says why.

mod document;
mod played;
mod table;

use serde::{Deserialize, Serialize};

use crate::kit::kernel::Kernel;
use crate::kit::nearest::nearest;
use crate::kit::seen::Seen;
use crate::kit::verdict::Verdict;
use crate::target::Target;

pub use document::document;
pub use table::all;

/// How a mechanism is shown.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Show {
    /// By a case, named as for `run`.
    Case {
        /// The target.
        on: String,
        /// The case, and a pattern of its variants.
        case: String,
    },
    /// By another command.
    Command {
        /// With its arguments.
        command: String,
    },
    /// By nothing.
    Nothing {
        /// Why.
        nothing: String,
    },
}

/// One mechanism.
#[derive(Clone, Debug, Deserialize)]
pub struct Mechanism {
    /// Seed document (0 to 4) and a number in it.
    pub id: String,
    /// What it is.
    pub what: String,
    /// How user space reaches it.
    pub reach: String,
    /// What shows it.
    #[serde(flatten)]
    pub show: Show,
}

impl Mechanism {
    fn is_named(&self, id: &str) -> bool {
        self.id == id || self.id.split_once('.').is_some_and(|(seed, _)| seed == id)
    }

    /// The command that shows it.
    pub fn command(&self) -> String {
        match &self.show {
            Show::Case { on, case } => {
                let options = match options(on, case) {
                    "" => String::new(),
                    options => format!(" -o {options}"),
                };
                format!("inflight-race run '{case}' --on {on}{options}")
            }
            Show::Command { command } => command.clone(),
            Show::Nothing { .. } => String::new(),
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
    let known = |id: &&String| all().any(|mechanism| mechanism.is_named(id));
    let Some(id) = ids.iter().find(|id| !known(id)) else { return Ok(()) };
    let near = nearest(id, all().map(|mechanism| &*mechanism.id));
    anyhow::bail!("no mechanism {id}; nearest: {near}; `mechanisms --list` shows all")
}

/// The mechanisms that `ids` name; of none named, all.
pub(crate) fn named(ids: &[String]) -> impl Iterator<Item = &'static Mechanism> {
    all().filter(move |one| ids.is_empty() || ids.iter().any(|id| one.is_named(id)))
}

/// The cases, with their patterns, that the mechanisms named by `ids` play; of none named, those that all play.
pub fn cases(ids: &[String]) -> Vec<&'static str> {
    let case = |mechanism: &'static Mechanism| match &mechanism.show {
        Show::Case { case, .. } => Some(&**case),
        _ => None,
    };
    named(ids).filter_map(case).collect()
}

/// What the mounts of a target get on which a case is played. A server that does direct I/O itself, here or below a loop
/// device, pins pages too, and FA2 would count them.
fn options(on: &str, cases: &str) -> &'static str {
    let is_served = Target::parse(on).is_ok_and(|target| target.is_gated());
    if cases.starts_with("FA") && is_served { "read=buffered,write=buffered" } else { "" }
}

/// Shows mechanisms: those that `ids` name (`2.1`, or `2` for all of a seed), or all. `said` hears of each as
/// it is done: mounts are made once for all that is shown on them, so this is not the order of the table.
///
/// # Errors
/// An id that names none, or an interrupt.
pub fn show(ids: &[String], mut said: impl FnMut(&Mechanism, &Outcome)) -> anyhow::Result<Shown> {
    check(ids)?;
    let mut left: Vec<&'static Mechanism> = named(ids).collect();
    let mut rows = Vec::new();
    while let Some(first) = left.first() {
        let place = played::place(first);
        let (here, others) = left.into_iter().partition(|one| played::place(one) == place);
        left = others;
        for (mechanism, outcome) in played::play(place, here)? {
            said(mechanism, &outcome);
            rows.push(Row { id: mechanism.id.clone(), outcome });
        }
    }
    let place = |row: &Row| all().position(|mechanism| mechanism.id == row.id);
    rows.sort_by_key(place);
    Ok(Shown { kernel: Kernel::running()?, rows })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_begin_with_the_seed_s_number() {
        let mut ids: Vec<_> = all().map(|mechanism| &mechanism.id).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
        for (number, seed) in table::SEEDS.iter().enumerate() {
            let number = number.to_string();
            assert!(seed.rows.iter().all(|row| row.is_named(&number)), "{}", seed.title);
        }
    }

    #[test]
    fn the_cases_and_targets_that_are_named_exist() {
        for mechanism in all() {
            if let Show::Case { on, case } = &mechanism.show {
                Target::parse(on).unwrap();
                let cases = vec![case.clone()];
                let wanted = crate::run::plan::Wanted { cases, ..Default::default() };
                assert!(!crate::run::plan::plan(&wanted).unwrap().is_empty(), "{mechanism:?}");
            }
        }
    }
}
