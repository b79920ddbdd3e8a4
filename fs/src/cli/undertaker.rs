//! `-o auto_unmount`: a process beside the server that unmounts when the server is gone, however it went.

use super::umount;
use crate::image::{lock, server};
use anyhow::Context as _;
use clap::Args;
use inflight_fuse::mount::Connection;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What to look after.
#[derive(Debug, Args)]
pub struct UndertakeArgs {
    /// Device number of the mount.
    device: String,
    /// Directory.
    mountpoint: PathBuf,
}

/// The process, which waits for the end of a pipe that only the server holds open.
pub(super) struct Undertaker(Child);

impl Undertaker {
    pub(super) fn start(mountpoint: &Path) -> anyhow::Result<Undertaker> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg0("inflight").args(["undertake", &device(mountpoint)?]).arg(mountpoint);
        // It has nothing of the server's but the pipe: neither its log nor its directory.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        Ok(Undertaker(command.spawn().context("cannot start what is to unmount")?))
    }
}

impl Drop for Undertaker {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It finds nothing to do, or does it.
        let _ = self.0.wait();
    }
}

fn device(mountpoint: &Path) -> anyhow::Result<String> {
    let found = Connection::of_mount(mountpoint);
    Ok(found.with_context(|| mountpoint.display().to_string())?.device())
}

pub(super) fn run(args: &UndertakeArgs) -> anyhow::Result<()> {
    // Ctrl-C is for the server; this one has to see what becomes of it.
    let _ = nix::unistd::setsid();
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing).context("the server")?;
    // Somebody may have mounted something else there since; the server itself does so after a power cut on request.
    let dir = &args.mountpoint;
    let is_dead = |device: &str| lock::image_of(dir).is_some() && server::report(device).is_err();
    if device(dir).is_ok_and(|device| device == args.device || is_dead(&device)) {
        umount::detach(dir);
    }
    Ok(())
}
