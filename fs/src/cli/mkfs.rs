//! `inflight mkfs`.

use crate::image::BLOCK;
use crate::image::mkfs::{MkfsOptions, mkfs};
use clap::Args;
use inflight_gate::size;
use std::path::PathBuf;

/// What to make.
#[derive(Debug, Args)]
pub struct MkfsArgs {
    /// Size, such as 512M, 1.5G or a number of bytes; a new file needs it.
    #[arg(short, long, value_parser = size::parse)]
    size: Option<u64>,
    /// Name of the filesystem, at most 63 bytes.
    #[arg(short = 'L', long, default_value = "")]
    label: String,
    /// Overwrite whatever the image holds.
    #[arg(short = 'F', long)]
    force: bool,
    /// Copy what is in this directory, or in this tar archive (- is standard input), into it.
    #[arg(long, value_name = "DIR|TAR")]
    from: Option<PathBuf>,
    /// File or block device.
    image: PathBuf,
}

pub(super) fn run(args: &MkfsArgs) -> anyhow::Result<()> {
    let options = MkfsOptions {
        size: args.size,
        label: args.label.clone(),
        force: args.force,
        ..MkfsOptions::default()
    };
    let existed = args.image.exists();
    let sb = mkfs(&args.image, &options)?;
    if let Some(from) = &args.from
        && let Err(e) = super::import::import(&args.image, from)
    {
        if !existed {
            // The file is ours and useless; the error that matters is the one at hand.
            let _ = std::fs::remove_file(&args.image);
        }
        return Err(e);
    }
    println!(
        "{}: {} MiB, {} blocks of {BLOCK} bytes, UUID {}{}",
        args.image.display(),
        (sb.total_blocks * BLOCK) >> 20,
        sb.total_blocks,
        uuid::Uuid::from_bytes(sb.uuid),
        if sb.label.is_empty() { String::new() } else { format!(", label '{}'", sb.label) }
    );
    Ok(())
}
