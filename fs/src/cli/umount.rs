//! `inflight umount`: returns when the image is clean and unlocked.

use crate::image::lock::{self, ImageLock};
use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What to unmount.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Detach now and finish when the last file is closed.
    #[arg(short, long)]
    lazy: bool,
    /// Directory.
    mountpoint: PathBuf,
}

pub(super) fn run(args: &UmountArgs, no_wait: bool) -> anyhow::Result<()> {
    // Not canonicalize: a dead server would make stat(2) of the mount point fail.
    let dir = std::path::absolute(&args.mountpoint)?;
    let image = lock::image_of(&dir)
        .with_context(|| format!("{} is not an Inflight mount point", dir.display()))?;
    match unmount(&dir, args.lazy) {
        Ok(()) => {}
        Err(Errno::EBUSY) => bail!(
            "{0} is busy: files on it are open, or a shell stands in it; `fuser -vm {0}` shows who, --lazy unmounts when they are done",
            dir.display()
        ),
        Err(Errno::EPERM) => {
            bail!("cannot unmount {}: you may not; whoever mounted it may, and root", dir.display())
        }
        Err(e) => bail!("cannot unmount {}: {}", dir.display(), e.desc()),
    }
    if args.lazy || no_wait {
        return Ok(());
    }
    let Ok(file) = crate::disk::open_image(&image, false) else { return Ok(()) };
    // Draws on a terminal only.
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template(
        "{spinner} {elapsed} the server writes what is left",
    )?);
    bar.enable_steady_tick(Duration::from_millis(100));
    // The server holds the lock until the last commit is durable.
    let released = ImageLock::acquire(&file, &image, lock::PATIENCE_UMOUNT);
    bar.finish_and_clear();
    match released {
        Ok(_released_at_once) => Ok(()),
        Err(e) => bail!("{} is unmounted, but {} is still {e}", dir.display(), image.display()),
    }
}

fn unmount(dir: &Path, lazy: bool) -> Result<(), Errno> {
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(dir, flags) {
        Err(Errno::EPERM) => by_helper(dir, lazy),
        other => other,
    }
}

/// An ordinary user unmounts through fusermount3(1).
fn by_helper(dir: &Path, lazy: bool) -> Result<(), Errno> {
    let flag = if lazy { "-uz" } else { "-u" };
    // It has one exit code for all that goes wrong, and quotes umount2(2).
    let mut helper = Command::new("fusermount3");
    match helper.env("LC_ALL", "C").args([flag, "--"]).arg(dir).output() {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) if String::from_utf8_lossy(&out.stderr).contains("busy") => Err(Errno::EBUSY),
        Ok(_) => Err(Errno::EPERM),
        Err(_) => Err(Errno::EPERM),
    }
}

/// Takes away a mount of ours whose server is dead, if one is on `dir`.
pub(super) fn clear_dead(dir: &Path) -> anyhow::Result<()> {
    // The connection of a server that just died may still be on its way down.
    let is_dead = |code| matches!(code, libc::ENOTCONN | libc::ECONNABORTED);
    let dead = std::fs::metadata(dir).is_err_and(|e| e.raw_os_error().is_some_and(is_dead));
    // The last part may be the mount point itself, of which nothing can be asked.
    let dir = std::path::absolute(dir)?;
    let above = dir.parent().and_then(|above| std::fs::canonicalize(above).ok());
    let dir = match (above, dir.file_name()) {
        (Some(above), Some(name)) => above.join(name),
        _ => dir,
    };
    if !dead || lock::image_of(&dir).is_none() {
        return Ok(());
    }
    unmount(&dir, true)
        .with_context(|| format!("{} is the mount of a server that is dead", dir.display()))
}

/// Unmounts on a signal: at once if nothing is open, else as soon as nothing is.
pub(super) fn detach(dir: &Path) {
    if unmount(dir, false).is_err() && unmount(dir, true).is_err() {
        tracing::error!("{} cannot be unmounted", dir.display());
    }
}
