//! `inflight umount`: returns when the image is clean and unlocked.

use crate::image::lock::{self, ImageLock};
use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use inflight_dio::{page_size, unwritten_pages};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// How often a terminal is shown that something goes on, and how often how far it is.
const TICK: Duration = Duration::from_millis(100);
const COUNT: Duration = Duration::from_secs(1);

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
    // The server holds the lock until the last commit is durable.
    let released = watching(&file, || ImageLock::acquire(&file, &image, lock::PATIENCE_UMOUNT));
    match released {
        Ok(_released_at_once) => Ok(()),
        Err(e) => bail!("{} is unmounted, but {} is still {e}", dir.display(), image.display()),
    }
}

/// What `wait` returns; a terminal is shown meanwhile how much of the image is left to be written.
fn watching<T>(image: &File, wait: impl FnOnce() -> T) -> T {
    let bar = ProgressBar::new_spinner();
    if bar.is_hidden() {
        return wait();
    }
    let style = ProgressStyle::with_template("{spinner} {elapsed} the server finishes{msg}");
    let bar = bar.with_style(style.expect("a constant template"));
    std::thread::scope(|scope| {
        let (waiting, over) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            // Counting looks at every cached folio of the image: seldom, and the wheel turns by itself.
            bar.enable_steady_tick(TICK);
            while over.recv_timeout(COUNT) == Err(RecvTimeoutError::Timeout) {
                bar.set_message(left(image));
            }
            bar.finish_and_clear();
        });
        let result = wait();
        drop(waiting);
        result
    })
}

/// How much of the image the page cache has and the device does not; nothing where the kernel cannot tell.
fn left(image: &File) -> String {
    match unwritten_pages(image.as_fd()) {
        Ok(pages @ 1..) => {
            format!("; {} are to be written", BinaryBytes(pages * page_size() as u64))
        }
        _ => String::new(),
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
