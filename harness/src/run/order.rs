//! An order: what to run, on what, and how it is told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::guest::Guest;
use super::plan::{self, Item, Wanted};
use super::table::Row;
use crate::fixture::STRESS;
use crate::target::Target;

/// What to run and where the results go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The plan.
    pub items: Vec<Item>,
    /// On what.
    pub target: Target,
    /// Mount options of every mount.
    pub options: String,
    /// Seed.
    pub seed: u64,
    /// Folder for results.
    pub results: PathBuf,
    /// Folder below which images and mounts are made.
    pub scratch: PathBuf,
    /// Longest that one variant may take, its control included.
    pub bound: Duration,
    /// How long a stress run may last.
    pub time: Duration,
    /// Print only the summary and what is unexpected.
    pub quiet: bool,
    /// What is said before the first variant of a case, by its short name: a guided tour, which also prints what was
    /// noted. None: no tour.
    pub tour: BTreeMap<String, String>,
    /// Print JSON, one object a line.
    pub json: bool,
    /// Print KTAP.
    #[serde(default)]
    pub ktap: bool,
    /// Print nothing but what the workers say, line by line, and write no results: somebody else judges.
    pub relay: bool,
    /// Judge without the table of expected failures: every harm is a FAIL, and its absence a PASS.
    #[serde(default)]
    pub raw: bool,
    /// Rows of one's own for that table.
    #[serde(default)]
    pub own: Vec<Row>,
    /// The machine of its own that it runs in; none: this one.
    pub vm: Option<Guest>,
    /// Print nothing: whoever ordered it prints what he makes of the results.
    #[serde(default)]
    pub silent: bool,
    /// The `inflight` program to race; none: the one that is found.
    #[serde(default)]
    pub server: Option<PathBuf>,
}

impl Order {
    /// An order of cases, named as for `inflight-race run`, on a target.
    ///
    /// # Errors
    /// A name that is not known.
    pub fn of(target: Target, cases: Vec<String>) -> anyhow::Result<Order> {
        let items = plan::plan(&Wanted { cases, ..Wanted::default() })?;
        Ok(Order { items, ..Order::empty(target) })
    }

    /// An order of nothing on a target.
    pub fn empty(target: Target) -> Order {
        Order {
            items: Vec::new(),
            target,
            options: String::new(),
            seed: 0,
            results: PathBuf::new(),
            scratch: std::env::temp_dir(),
            bound: bound(STRESS),
            time: STRESS,
            quiet: false,
            tour: BTreeMap::new(),
            json: false,
            ktap: false,
            relay: false,
            raw: false,
            own: Vec::new(),
            vm: None,
            silent: false,
            server: None,
        }
    }
}

/// Longest that a variant may take unless told: a stress run takes its time, and its control and the quiet looks take some more.
pub fn bound(time: Duration) -> Duration {
    Duration::from_secs(60).max(time * 2 + Duration::from_secs(30))
}
