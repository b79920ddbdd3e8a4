//! What cleans up when the proxy was killed: a process of its own, which nobody sees and Ctrl-C does not reach.

use std::io::{BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::mountpoint;

/// How long a server may take to end after its connection did.
pub const LINGER: Duration = Duration::from_secs(5);

/// Between two looks whether something is over.
const SLICE: Duration = Duration::from_millis(20);

/// The proxy's hold of its watcher. It acts when this ends without [`Watcher::dismiss`].
#[derive(Debug)]
pub struct Watcher {
    child: Child,
}

impl Watcher {
    /// Starts one for what will be mounted on `at`.
    ///
    /// # Errors
    /// This program cannot be started again.
    pub fn start(at: &Path) -> anyhow::Result<Watcher> {
        let program = std::env::current_exe().context("our own path")?;
        let child = Command::new(program)
            .args(["watch", "--"])
            .arg(at)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start the watcher")?;
        Ok(Watcher { child })
    }

    /// Tells it what there is to clean up: `device 0:47`, `server 1234`.
    ///
    /// # Errors
    /// It is gone.
    pub fn tell(&mut self, what: &str, value: impl std::fmt::Display) -> anyhow::Result<()> {
        let input = self.child.stdin.as_mut().context("the watcher was dismissed")?;
        writeln!(input, "{what} {value}").context("tell the watcher")
    }

    /// Everything is cleaned up.
    pub fn dismiss(mut self) {
        let _ = self.tell("done", "");
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Waits for the end of its input, then cleans up what the proxy left.
pub fn run(at: &Path) -> anyhow::Result<()> {
    let (mut device, mut server) = (None, None);
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("device", number)) => device = Some(number.to_owned()),
            Some(("server", pid)) => server = pid.parse().ok(),
            Some(("done", _)) => return Ok(()),
            _ => {}
        }
    }
    if device.is_some_and(|number| mountpoint::is_mounted(at, &number)) {
        mountpoint::abort(at);
    }
    if let Some(pid) = server {
        end_group(Pid::from_raw(pid));
    }
    Ok(())
}

/// Ends a server: it has seen its connection end, then it is asked to, then it is made to. It leads a group.
pub fn end_group(server: Pid) {
    for signal in [None, Some(Signal::SIGTERM), Some(Signal::SIGKILL)] {
        let end = Instant::now() + LINGER;
        if let Some(signal) = signal {
            let _ = killpg(server, signal);
        }
        while Instant::now() < end {
            if killpg(server, None) == Err(Errno::ESRCH) {
                return;
            }
            std::thread::sleep(SLICE);
        }
    }
}
