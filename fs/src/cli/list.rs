//! `inflight list`: which images there are, and who has them.

use super::stat::size;
use crate::disk::{Disk, FileDisk};
use crate::image::superblock::{STATE_MOUNTED, Superblock};
use crate::image::{BLOCK, lock, probe};
use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

/// Where to look, and for what.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Print the path of the one image with this LABEL=NAME or UUID=ID, and nothing else.
    #[arg(long, value_name = "TAG")]
    find: Option<String>,
    /// Images, and directories whose images are wanted; without, all that is mounted and all block devices.
    paths: Vec<PathBuf>,
}

/// An image.
#[derive(Debug, Serialize)]
struct Image {
    path: PathBuf,
    label: String,
    uuid: String,
    bytes: u64,
    /// `mounted`, `in use`, `clean`, or `unclean`: it was not unmounted, and a mount takes its last commit.
    state: &'static str,
    mountpoint: Option<String>,
    /// The process that has it.
    pid: Option<u32>,
}

pub(super) fn run(args: &ListArgs) -> anyhow::Result<()> {
    let mut images: Vec<Image> =
        candidates(&args.paths)?.iter().filter_map(|path| look(path)).collect();
    images.sort_by(|a, b| a.path.cmp(&b.path));
    images.dedup_by(|a, b| a.path == b.path);
    if let Some(tag) = &args.find {
        return find(&images, tag);
    }
    if args.json {
        println!("{}", serde_json::to_string(&images)?);
        return Ok(());
    }
    println!("{:<16} {:<36} {:>9} {:<8} IMAGE", "LABEL", "UUID", "SIZE", "STATE");
    for Image { path, label, uuid, bytes, state, mountpoint, pid } in images {
        let on = mountpoint.map(|dir| format!(" on {dir}")).unwrap_or_default();
        let by = pid.map(|pid| format!(" by process {pid}")).unwrap_or_default();
        let label = if label.is_empty() { "-" } else { &label };
        println!("{label:<16} {uuid:<36} {:>9} {state:<8} {}{on}{by}", size(bytes), path.display());
    }
    Ok(())
}

fn find(images: &[Image], tag: &str) -> anyhow::Result<()> {
    let found: Vec<&Image> = match tag.split_once('=') {
        Some(("LABEL", label)) => images.iter().filter(|image| image.label == label).collect(),
        Some(("UUID", uuid)) => {
            images.iter().filter(|image| image.uuid.eq_ignore_ascii_case(uuid)).collect()
        }
        _ => bail!("'{tag}' is neither LABEL=NAME nor UUID=ID"),
    };
    match found[..] {
        [image] => println!("{}", image.path.display()),
        [] => bail!("no image has {tag}; inflight list PATH... shows those that there are"),
        [first, second, ..] => {
            let (first, second) = (first.path.display(), second.path.display());
            bail!(
                "more than one image has {tag}: {first} and {second}; inflight label gives one of them another"
            )
        }
    }
    Ok(())
}

/// What may be an image: the files of directories, and what is named itself.
fn candidates(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    if paths.is_empty() {
        let mut all: Vec<PathBuf> = lock::mounted_images();
        all.extend(block_devices());
        return Ok(all);
    }
    let mut all = Vec::new();
    for path in paths {
        let name = || path.display().to_string();
        if !std::fs::metadata(path).with_context(name)?.is_dir() {
            all.push(path.clone());
            continue;
        }
        for entry in std::fs::read_dir(path).with_context(name)? {
            all.push(entry.with_context(name)?.path());
        }
    }
    // Neither fifos nor what somebody else's server may be slow about.
    let can_hold = |path: &PathBuf| {
        let kind = std::fs::metadata(path).map(|meta| meta.file_type());
        kind.is_ok_and(|kind| kind.is_file() || kind.is_block_device())
    };
    all.retain(can_hold);
    all.iter_mut().for_each(|path| {
        if let Ok(whole) = std::fs::canonicalize(&path) {
            *path = whole;
        }
    });
    Ok(all)
}

/// Those that the kernel has, loop devices without a file left out.
fn block_devices() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
    let names = table.lines().skip(2).filter_map(|line| line.split_whitespace().nth(3));
    names.map(|name| Path::new("/dev").join(name)).filter(|path| path.exists()).collect()
}

/// What the superblock says; `None` for what is no image of ours, or cannot be read.
fn look(path: &Path) -> Option<Image> {
    let disk = FileDisk::open(path, false).ok()?;
    let copies = probe::copies(&disk).ok()?;
    let superblock: Superblock = copies.into_iter().flatten().max_by_key(|sb| sb.sequence)?;
    let mountpoint = lock::mount_of(disk.name());
    let pid = lock::holder_of(disk.file());
    let state = match (&mountpoint, pid, superblock.state & STATE_MOUNTED) {
        (Some(_), ..) => "mounted",
        (None, Some(_), _) => "in use",
        (None, None, 0) => "clean",
        _ => "unclean",
    };
    Some(Image {
        path: disk.name().to_owned(),
        label: superblock.label,
        uuid: uuid::Uuid::from_bytes(superblock.uuid).to_string(),
        bytes: superblock.total_blocks * BLOCK,
        state,
        mountpoint,
        pid,
    })
}
