//! What is told behind `vm --`, and to `kernels`: orders that are played in guests.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::run::{RunArguments, order};
use super::usage;
use crate::run::Order;
use crate::vm;

/// The words of a command line that select cases.
pub fn selection(cases: &[String], groups: &[String], exclude: &[String]) -> Vec<String> {
    let groups = groups.iter().map(|group| format!("--group={group}"));
    let exclude = exclude.iter().map(|case| format!("--exclude={case}"));
    cases.iter().cloned().chain(groups).chain(exclude).collect()
}

/// One order for each target.
///
/// # Errors
/// As [`order`].
pub fn kernel_orders(selection: &[String], targets: Vec<String>) -> anyhow::Result<Vec<Order>> {
    let one = |target| {
        let words = ["in-guest", "run", "--quiet", "--on"].map(str::to_owned).into_iter();
        let words = words.chain([target]).chain(selection.iter().cloned());
        match InGuest::try_parse_from(words)? {
            InGuest::Run(arguments) => guest_order(None, *arguments),
            InGuest::Exec { .. } => unreachable!("the words begin with run"),
        }
    };
    targets.into_iter().map(one).collect()
}

/// What can be done in a guest.
#[derive(Debug, Parser)]
#[command(name = "inflight-race vm --kernel SPEC --", version)]
enum InGuest {
    /// Run cases.
    Run(Box<RunArguments>),
    /// Run a program, with its shared libraries; its folder is an empty ext4.
    Exec {
        /// Longest that it may write nothing, in seconds.
        #[arg(long, default_value_t = 600)]
        bound: u64,
        /// A program that it finds in its PATH; may be repeated.
        #[arg(long = "with", value_name = "PROGRAM")]
        beside: Vec<String>,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Does in a guest what the words behind `--` say; gives the exit code.
///
/// # Errors
/// As [`vm::run`] and [`vm::exec::exec`].
pub fn in_guest(
    options: &vm::Options,
    results: Option<PathBuf>,
    command: Vec<String>,
) -> anyhow::Result<i32> {
    let words = ["inflight-race vm --kernel SPEC --".to_owned()].into_iter().chain(command);
    match InGuest::try_parse_from(words).unwrap_or_else(|error| error.exit()) {
        InGuest::Run(arguments) => match guest_order(results, *arguments) {
            Ok(order) => vm::run(options, order),
            Err(error) => Ok(usage(&error)),
        },
        InGuest::Exec { bound, beside, words } => {
            vm::exec::exec(options, &words, &beside, Duration::from_secs(bound))
        }
    }
}

/// The order of a run in a guest.
fn guest_order(results: Option<PathBuf>, mut arguments: RunArguments) -> anyhow::Result<Order> {
    arguments.results = results.or(arguments.results);
    anyhow::ensure!(
        arguments.scratch.is_none(),
        "--scratch: a guest has a disk of its own for that"
    );
    order(arguments)
}
