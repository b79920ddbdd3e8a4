//! `inflight completions` and the manual pages.

use clap::{Args, CommandFactory as _};
use inflight_gate::pages;
use std::path::PathBuf;

/// For which shell.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    shell: clap_complete::Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub struct ManualArgs {
    /// A folder for the pages of all commands; without, the page of the program is printed.
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    pages::completions(super::Cli::command(), args.shell, &mut script)?;
    super::output::print_all(&script);
    Ok(())
}

pub(super) fn manual(args: &ManualArgs) -> anyhow::Result<()> {
    let mut page = Vec::new();
    pages::manual(super::Cli::command(), &mut page, args.dir.as_deref())?;
    super::output::print_all(&page);
    Ok(())
}
