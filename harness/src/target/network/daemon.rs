//! A server that is a program: it runs in the network of the thread that starts it, and listens on a port of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kit::bounds::scaled;
use crate::kit::pause::Pause;
use crate::kit::sys;
use crate::kit::verdict::not_run;
use crate::target::session;

/// Name of a server's log in its folder.
pub const LOG: &str = "server.log";

/// Longest that one may take to listen, or to end.
const BOUND: Duration = Duration::from_secs(30);

/// A running server, with its children in a group of its own. Ends when it is dropped.
#[derive(Debug)]
pub struct Daemon {
    process: Child,
    address: SocketAddr,
}

impl Daemon {
    /// Starts a program, with the arguments that `prepare` gives for an address that is free, and waits until it
    /// listens there. Its log and its process id, for the guard, lie in `folder`.
    ///
    /// # Errors
    /// NOTRUN when it is not installed; otherwise it does not listen.
    pub fn start(
        name: &str,
        folder: &Path,
        prepare: impl FnOnce(&mut Command, SocketAddr) -> anyhow::Result<()>,
    ) -> anyhow::Result<Daemon> {
        let program = sys::find_program(name);
        let program = program.ok_or_else(|| not_run(format!("{name} is not installed")))?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(program);
        prepare(&mut command, address)?;
        let path = folder.join(LOG);
        let log = File::create(&path)?;
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().with_context(|| name.to_owned())?;
        fs::write(folder.join("server.pid"), process.id().to_string())?;
        let mut daemon = Daemon { process, address };
        let end = Instant::now() + scaled(BOUND);
        let mut pause = Pause::default();
        while TcpStream::connect(address).is_err() {
            let status = daemon.process.try_wait()?;
            if status.is_some() || Instant::now() >= end {
                let how = status.map_or("does not listen".to_owned(), |status| status.to_string());
                let log = fs::read_to_string(&path).unwrap_or_default();
                bail!("{name}: {how}: {}", log.trim());
            }
            pause.rest();
        }
        Ok(daemon)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = self.process.id() as i32;
        let group = Pid::from_raw(-pid);
        let _ = kill(group, Signal::SIGTERM);
        if !session::wait_end(pid, scaled(BOUND)) {
            let _ = kill(group, Signal::SIGKILL);
        }
        let _ = self.process.wait();
    }
}
