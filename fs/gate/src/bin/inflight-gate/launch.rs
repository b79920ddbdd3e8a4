//! The last steps before a server's own program: what must be done in its process.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::Args;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

/// How the server is started.
#[derive(Debug, Args)]
pub struct LaunchArgs {
    /// Process of the proxy.
    #[arg(long)]
    parent: i32,
    /// Socket over which a listener for its mount(2) is sent.
    #[arg(long)]
    listener: Option<i32>,
    /// The server and its arguments.
    #[arg(last = true, required = true)]
    server: Vec<OsString>,
}

/// Becomes the server, which ends with the proxy.
pub fn run(arguments: &LaunchArgs) -> anyhow::Result<()> {
    set_pdeathsig(Signal::SIGTERM).context("prctl(PR_SET_PDEATHSIG)")?;
    // Where the proxy ended before that, there is nobody to serve.
    ensure!(getppid().as_raw() == arguments.parent, "the proxy is gone");
    if let Some(socket) = arguments.listener {
        crate::intercept::install(socket).context("seccomp(2) with a listener (Linux 5.9)")?;
        nix::unistd::close(socket)?;
    }
    let (program, rest) = arguments.server.split_first().context("no command")?;
    let error = Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
