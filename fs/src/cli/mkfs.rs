//! `inflight mkfs`.

use crate::image::BLOCK;
use crate::image::mkfs::{MkfsOptions, mkfs};
use clap::Args;
use std::path::PathBuf;

/// What to make.
#[derive(Debug, Args)]
pub struct MkfsArgs {
    /// Size, such as 512M, 4G or a number of bytes; a new file needs it.
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,
    /// Name of the filesystem, at most 63 bytes.
    #[arg(long, default_value = "")]
    label: String,
    /// Overwrite whatever the image holds.
    #[arg(long)]
    force: bool,
    /// File or block device.
    image: PathBuf,
}

/// Reads a size: a number with an optional suffix K, M, G or T (powers of 1024).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..].to_ascii_uppercase()[..] {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        other => return Err(format!("unknown suffix '{other}': use K, M, G or T")),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

pub(super) fn run(args: &MkfsArgs) -> anyhow::Result<()> {
    let options = MkfsOptions { size: args.size, label: args.label.clone(), force: args.force };
    let sb = mkfs(&args.image, &options)?;
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

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_have_suffixes_and_limits() {
        assert_eq!(parse_size("4G"), Ok(4 << 30));
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert!(parse_size("4X").is_err() && parse_size("").is_err());
        assert!(parse_size("99999999T").is_err());
    }
}
