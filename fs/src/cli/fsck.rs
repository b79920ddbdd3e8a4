//! `inflight fsck`.

use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// What to check.
#[derive(Debug, Args)]
pub struct FsckArgs {
    /// Repair what can be repaired.
    #[arg(long)]
    repair: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// File or block device.
    image: PathBuf,
}

pub(super) fn run(_args: &FsckArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not in this version")
}
