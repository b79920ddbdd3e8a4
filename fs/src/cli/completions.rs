//! `inflight completions` and the manual page.

use clap::{Args, Command, CommandFactory as _};

/// For which shell.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut command = super::Cli::command();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "inflight", &mut script);
    super::output::print_all(&script);
    Ok(())
}

pub(super) fn manual(command: Command) -> anyhow::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    super::output::print_all(&page);
    Ok(())
}
