//! `inflight dump`.

use clap::Args;
use std::path::PathBuf;

/// What to show.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// File or block device.
    image: PathBuf,
    /// A file or directory in it; the superblock when absent.
    path: Option<PathBuf>,
}

pub(super) fn run(_args: &DumpArgs) -> anyhow::Result<()> {
    anyhow::bail!("not in this version")
}
