//! `inflight completions` and the manual page.

use clap::{Args, Command, CommandFactory as _};

/// For which shell.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut command = super::Cli::command();
    clap_complete::generate(args.shell, &mut command, "inflight", &mut std::io::stdout());
    Ok(())
}

pub(super) fn manual(command: Command) -> anyhow::Result<()> {
    Ok(clap_mangen::Man::new(command).render(&mut std::io::stdout())?)
}
