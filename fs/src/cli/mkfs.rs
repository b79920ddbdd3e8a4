//! `inflight mkfs`.

use crate::image::BLOCK;
use crate::image::mkfs::{MkfsOptions, mkfs};
use clap::Args;
use std::path::PathBuf;

/// What to make.
#[derive(Debug, Args)]
pub struct MkfsArgs {
    /// Size, such as 512M, 1.5G or a number of bytes; a new file needs it.
    #[arg(short, long, value_parser = parse_size)]
    size: Option<u64>,
    /// Name of the filesystem, at most 63 bytes.
    #[arg(short = 'L', long, default_value = "")]
    label: String,
    /// Overwrite whatever the image holds.
    #[arg(short = 'F', long)]
    force: bool,
    /// Copy what is in this directory into it.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// File or block device.
    image: PathBuf,
}

/// Reads a size: a number, which may have a fraction, with an optional suffix K, M, G or T (powers of 1024; also as Ki,
/// KiB).
///
/// # Errors
/// It looks like none, or is no whole number of bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..].to_ascii_uppercase()[..] {
        "" | "B" => 0,
        "K" | "KI" | "KIB" => 10,
        "M" | "MI" | "MIB" => 20,
        "G" | "GI" | "GIB" => 30,
        "T" | "TI" | "TIB" => 40,
        other => return Err(format!("unknown suffix '{other}': use K, M, G or T")),
    };
    let number = || "not a number".to_owned();
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || fraction.is_empty() || fraction.len() > 9 {
        return Err(number());
    }
    let whole: u64 = whole.parse().map_err(|_| number())?;
    let fraction: u128 = format!("{fraction:0<9}").parse().map_err(|_| number())?;
    let rest = fraction << shift;
    if !rest.is_multiple_of(1_000_000_000) {
        return Err("not a whole number of bytes".to_owned());
    }
    let rest = (rest / 1_000_000_000) as u64;
    let bytes = whole.checked_mul(1 << shift).and_then(|bytes| bytes.checked_add(rest));
    bytes.ok_or_else(|| "too large".to_owned())
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
        assert_eq!(parse_size("4Gi"), Ok(4 << 30));
        assert_eq!(parse_size("1.5G"), Ok(3 << 29));
        assert_eq!(parse_size("0.25k"), Ok(256));
        assert!(
            parse_size("1.3").is_err() && parse_size("1.").is_err() && parse_size(".G").is_err()
        );
        assert!(parse_size("-1G").is_err() && parse_size("1.5.5G").is_err());
    }
}
