//! What mount(8) calls for `-t fuse.inflight`: `mount.fuse.inflight IMAGE DIR [-sfnv] [-o OPTIONS]`.

use crate::cli::mount::{self, MountArgs};
use crate::mounted;
use crate::options::Options;
use anyhow::Context as _;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// mount(8): the mount failed.
pub(super) const MOUNT_FAILED: u8 = 32;
/// What mount(8) takes from mountinfo for a remount: FUSE's own, which cannot be changed.
const FIXED: [&str; 8] =
    ["fd", "rootmode", "user_id", "group_id", "max_read", "blksize", "fsname", "subtype"];

/// The command line of `inflight fsck` for what fsck(8) passes to its helpers: `-a`, `-p` and `-y` repair, `-n` does not, the
/// others have no meaning here.
pub(super) fn fsck(args: Vec<OsString>) -> Vec<OsString> {
    let mut line: Vec<OsString> = ["inflight", "fsck"].map(Into::into).into();
    for arg in args {
        match arg.to_str() {
            Some("-a" | "-p" | "-y") => line.push("--repair".into()),
            Some("-n" | "-f" | "-V" | "-T" | "-M") => {}
            Some(progress) if progress.starts_with("-C") => {}
            _ => line.push(arg),
        }
    }
    line.dedup();
    line
}

pub(super) fn run(args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let (mut paths, mut options, mut fake) = (Vec::new(), Vec::new(), false);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("-o") => {
                let list = args.next().context("-o needs a list of options")?;
                options.push(list.to_string_lossy().into_owned());
            }
            Some("--version") => {
                println!("inflight {}", env!("CARGO_PKG_VERSION"));
                return Ok(ExitCode::SUCCESS);
            }
            // Namespace and type: mount(8) has seen to them.
            Some("-N" | "-t") => drop(args.next()),
            Some(flags) if flags.starts_with('-') => fake |= flags.contains('f'),
            _ => paths.push(PathBuf::from(arg)),
        }
    }
    let [image, dir] = <[PathBuf; 2]>::try_from(paths)
        .map_err(|_| anyhow::anyhow!("usage: mount.fuse.inflight IMAGE DIR [-o OPTIONS]"))?;
    super::log::init(0, true);
    if options.iter().flat_map(|o| o.split(',')).any(|o| o == "remount") {
        return remount(&dir, &options);
    }
    if !fake {
        mount::run(&MountArgs::for_helper(image, dir, options), 0, false)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Changes what the kernel decides: ro, rw, nosuid, nodev, noexec, the atime family.
fn remount(dir: &Path, lists: &[String]) -> anyhow::Result<ExitCode> {
    let mut options = Options::default();
    let fixed = |option: &&str| {
        *option == "remount" || FIXED.iter().any(|name| option.split('=').next() == Some(name))
    };
    for option in lists.iter().flat_map(|l| l.split(',')).filter(|o| !fixed(o)) {
        options.add(option)?;
    }
    if !options.read_only && super::stat::fetch(dir)?["read_only"] == true {
        anyhow::bail!("{} was mounted read-only; unmount it and mount it again", dir.display());
    }
    mounted::remount(dir, &options).with_context(|| format!("cannot remount {}", dir.display()))?;
    if options.read_only {
        // The kernel flushes its pages and sends no request for the rest: after this nothing is left to be lost.
        let flushed = std::fs::File::open(dir).and_then(|dir| dir.sync_all());
        flushed.with_context(|| format!("cannot flush {}", dir.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
