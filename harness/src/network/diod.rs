//! The 9P server diod(8).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::sys;
use crate::verdict::not_run;

/// The server.
pub const PROGRAM: &str = "diod";

/// Longest that it may take to listen.
const BOUND: Duration = Duration::from_secs(20);

/// A running server. Ends when it is dropped.
#[derive(Debug)]
pub struct Diod {
    process: Child,
    address: SocketAddr,
}

impl Diod {
    /// Serves one folder; its log lies in `folder`.
    ///
    /// # Errors
    /// NOTRUN when it is not installed; otherwise it did not start.
    pub fn start(export: &Path, folder: &Path) -> anyhow::Result<Diod> {
        let program = sys::find_program(PROGRAM);
        let program = program.ok_or_else(|| not_run(format!("{PROGRAM} is not installed")))?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let settings = folder.join("diod.conf");
        fs::write(&settings, "")?;
        let mut command = Command::new(program);
        // Nobody has a name or a password in a namespace that only we are in.
        command.args(["--foreground", "--no-auth", "--no-userdb", "--logdest", "stderr"]);
        command.args(["--listen", &address.to_string()]).arg("--export").arg(export);
        command.arg("--config-file").arg(settings);
        let log = fs::File::create(folder.join("diod.log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().context(PROGRAM)?;
        fs::write(folder.join("server.pid"), process.id().to_string())?;
        let mut server = Diod { process, address };
        let end = Instant::now() + BOUND;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.process.try_wait()? {
                let log = fs::read_to_string(folder.join("diod.log")).unwrap_or_default();
                bail!("{PROGRAM} ended with {status}: {}", log.trim());
            }
            if Instant::now() >= end {
                bail!("{PROGRAM} does not listen on {address} after {BOUND:?}");
            }
            std::thread::yield_now();
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Diod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the client mounts, and with which options, through a proxy at this port.
pub fn client(port: u16, export: &Path) -> (String, String) {
    let (host, export) = (Ipv4Addr::LOCALHOST, export.display());
    let options = format!(
        "trans=tcp,port={port},version=9p2000.L,aname={export},uname=root,access=0,cache=none,msize=65536"
    );
    (host.to_string(), options)
}
