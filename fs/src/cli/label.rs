//! `inflight label`: shows the name of a filesystem, or changes it.

use crate::image::metastore::MetaStore;
use crate::image::open::{self, Access, Locked};
use crate::image::superblock::LABEL_MAX;
use crate::image::{lock, probe};
use anyhow::{Context as _, ensure};
use clap::Args;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whose, and what it is to be.
#[derive(Debug, Args)]
pub struct LabelArgs {
    /// Image, or directory that it is mounted on.
    target: PathBuf,
    /// The new name, at most 63 bytes; '' takes the name away.
    label: Option<String>,
}

/// As FS_IOC_SETFSLABEL has it (FSLABEL_MAX of linux/fs.h).
const ROOM: usize = 256;

mod calls {
    #![allow(unsafe_code)]
    use super::ROOM;
    nix::ioctl_read!(get, 0x94, 49, [u8; ROOM]);
    nix::ioctl_write_ptr!(set, 0x94, 50, [u8; ROOM]);

    pub fn read(file: &std::fs::File) -> nix::Result<[u8; ROOM]> {
        use std::os::fd::AsRawFd as _;
        let mut label = [0; ROOM];
        // SAFETY: the kernel writes FSLABEL_MAX bytes, which `label` has, and the descriptor is open.
        unsafe { get(file.as_raw_fd(), &raw mut label) }?;
        Ok(label)
    }

    pub fn write(file: &std::fs::File, label: &[u8; ROOM]) -> nix::Result<()> {
        use std::os::fd::AsRawFd as _;
        // SAFETY: the kernel reads FSLABEL_MAX bytes, which `label` has, and the descriptor is open.
        unsafe { set(file.as_raw_fd(), label) }.map(drop)
    }
}

pub(super) fn run(args: &LabelArgs) -> anyhow::Result<()> {
    if let Some(label) = &args.label {
        let bytes = label.len();
        ensure!(bytes <= LABEL_MAX, "label is {bytes} bytes long, at most {LABEL_MAX} fit");
        ensure!(!label.contains('\0'), "a label has no zero byte");
    }
    let target = std::path::absolute(&args.target)?;
    let mounted = match lock::image_of(&target) {
        Some(_) => Some(target),
        None => std::fs::canonicalize(&target)
            .ok()
            .and_then(|image| lock::mount_of(&image).map(PathBuf::from)),
    };
    match (mounted, &args.label) {
        (Some(dir), label) => of_mount(&dir, label.as_deref()),
        (None, None) => {
            let Locked { disk, .. } = open::locked(&args.target, Access::Read)?;
            println!("{}", probe::superblock(&*disk, false)?.label);
            Ok(())
        }
        (None, Some(label)) => {
            let Locked { disk, lock: _held } = open::locked(&args.target, Access::Write)?;
            let superblock = probe::superblock(&*disk, true)?;
            let meta = MetaStore::new(Arc::clone(&disk) as _, superblock);
            let written = meta.update(|sb| label.clone_into(&mut sb.label));
            written.with_context(|| args.target.display().to_string())
        }
    }
}

fn of_mount(dir: &Path, label: Option<&str>) -> anyhow::Result<()> {
    let name = || dir.display().to_string();
    let root = File::open(dir).with_context(name)?;
    match label {
        None => {
            let label = calls::read(&root).with_context(name)?;
            let end = label.iter().position(|byte| *byte == 0).unwrap_or(ROOM);
            println!("{}", String::from_utf8_lossy(&label[..end]));
        }
        Some(label) => {
            let mut room = [0; ROOM];
            room[..label.len()].copy_from_slice(label.as_bytes());
            calls::write(&root, &room).with_context(name)?;
        }
    }
    Ok(())
}
