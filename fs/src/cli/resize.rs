//! `inflight resize`: makes a filesystem larger, or smaller.

use super::stat::size;
use crate::disk::{Disk, FileDisk};
use crate::fsck::{self, Outcome};
use crate::image::unopened::unopened;
use crate::image::{BLOCK, lock, probe};
use crate::mounted;
use crate::options::Options;
use anyhow::{Context as _, anyhow, bail, ensure};
use clap::Args;
use indicatif::ProgressBar;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which, and how large.
#[derive(Debug, Args)]
pub struct ResizeArgs {
    /// Image, mounted or not, or the directory that it is mounted on.
    target: PathBuf,
    /// Size, such as 8G; without, that of the device or file.
    #[arg(value_parser = inflight_gate::size::parse)]
    size: Option<u64>,
}

mod call {
    #![allow(unsafe_code)]
    nix::ioctl_write_ptr!(resize, b'f', 16, u64);

    pub fn grow(root: &std::fs::File, blocks: u64) -> nix::Result<()> {
        use std::os::fd::AsRawFd as _;
        // SAFETY: the kernel reads eight bytes, which `blocks` has, and the descriptor is open.
        unsafe { resize(root.as_raw_fd(), &raw const blocks) }.map(drop)
    }
}

pub(super) fn run(args: &ResizeArgs) -> anyhow::Result<()> {
    let target = std::path::absolute(&args.target)?;
    let image = lock::image_of(&target).unwrap_or(target);
    let image = std::fs::canonicalize(&image).map_err(|e| anyhow!(unopened(&image, &e)))?;
    let name = image.display().to_string();
    let disk = FileDisk::open(&image, true).map_err(|e| anyhow!(unopened(&image, &e)))?;
    let has = probe::superblock(&disk, true)?.total_blocks * BLOCK;
    let length = disk.len().with_context(|| name.clone())?;
    let wanted = args.size.unwrap_or(length / BLOCK * BLOCK);
    ensure!(
        wanted.is_multiple_of(BLOCK),
        "{name}: size {wanted} is not a multiple of {BLOCK}; use {} or {}",
        wanted / BLOCK * BLOCK,
        wanted.next_multiple_of(BLOCK)
    );
    if wanted < has {
        if let Some(dir) = lock::mount_of(&image) {
            bail!("{name} is mounted on {dir}: unmount it to make it smaller");
        }
        smaller(&image, wanted / BLOCK)?;
        println!("{name}: {} instead of {}", size(wanted), size(has));
        return Ok(());
    }
    ensure!(
        wanted <= length || !disk.is_block_device(),
        "{name} has {length} bytes, {wanted} are wanted: make the device larger first"
    );
    // Longer, or as long as the filesystem: what a crash left of a shrink.
    let is_fitted = wanted == length || disk.is_block_device();
    let fit = |has_owner: bool| match is_fitted || has_owner && wanted < length {
        true => Ok(()),
        false => disk.file().set_len(wanted).with_context(|| name.clone()),
    };
    match lock::mount_of(&image) {
        Some(dir) => {
            fit(true)?;
            let root = File::open(&dir).with_context(|| dir.clone())?;
            call::grow(&root, wanted / BLOCK).with_context(|| format!("cannot resize {dir}"))?;
        }
        None => unmounted(&image, || fit(false), wanted / BLOCK, wanted == has)?,
    }
    println!("{name}: {} instead of {}", size(wanted), size(has));
    Ok(())
}

fn smaller(image: &Path, blocks: u64) -> anyhow::Result<()> {
    // Draws on a terminal only.
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    let result = fsck::shrink(image, blocks, &|stage| bar.set_message(stage));
    bar.finish_and_clear();
    Ok(result?)
}

fn unmounted(
    image: &Path,
    fit: impl FnOnce() -> anyhow::Result<()>,
    blocks: u64,
    again: bool,
) -> anyhow::Result<()> {
    let name = || image.display().to_string();
    let options = Options { threads: 1, slabs: 0, ..Options::default() };
    let fs = mounted::open(image, &options)?;
    // Now the image is ours, and nobody else's to be changed.
    let grown = fit().and_then(|()| fs.volume().grow(blocks).with_context(name));
    let closed = mounted::close(&fs).with_context(name);
    drop(fs);
    grown.and(closed)?;
    if again {
        // What was interrupted may have left blocks that are nobody's.
        let report = fsck::check(image, &fsck::Options { repair: true, progress: &|_| () })?;
        let is_clean = matches!(report.outcome, Outcome::Clean | Outcome::Corrected);
        ensure!(is_clean, "{}: damaged; see inflight fsck", name());
    }
    Ok(())
}
