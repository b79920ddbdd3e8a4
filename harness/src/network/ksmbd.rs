//! The kernel's SMB server with its daemon, ksmbd.mountd(8).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::sys;
use crate::verdict::not_run;

/// The daemon.
pub const PROGRAM: &str = "ksmbd.mountd";

/// Where the kernel's part says what it does.
const CONTROL: &str = "/sys/class/ksmbd-control";

/// Longest that the server may take to listen, or to stop.
const BOUND: Duration = Duration::from_secs(20);

/// Who may log in: the password, and the daemon's line for both (the hash of MS-NLMP 3.3.1 in base64).
const PASSWORD: &str = "inflight";
const USER: &str = "root:XDoFz989lThVRvgFByM/Ww==\n";

/// A running server. Stops when it is dropped.
#[derive(Debug)]
pub struct Ksmbd {
    daemon: Child,
    address: SocketAddr,
}

impl Ksmbd {
    /// Serves one folder as `share`; its settings lie in `folder`.
    ///
    /// # Errors
    /// NOTRUN when this kernel has no such server or somebody else uses it; otherwise it did not start.
    pub fn start(export: &Path, folder: &Path) -> anyhow::Result<Ksmbd> {
        match state() {
            None => return Err(not_run("this kernel has no ksmbd, or its module is not loaded")),
            Some(state) if state == "running" => {
                return Err(not_run("ksmbd serves something else on this machine"));
            }
            Some(_) => {}
        }
        let program = sys::find_program(PROGRAM);
        let program = program.ok_or_else(|| not_run(format!("{PROGRAM} is not installed")))?;
        // The port is free now; nobody else asks for one of this number in the next moment.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let (settings, users) = (folder.join("ksmbd.conf"), folder.join("ksmbd.users"));
        fs::write(&settings, text(export, port))?;
        fs::write(&users, USER)?;
        let mut command = Command::new(program);
        command.arg("--nodetach").arg("--config").arg(&settings).arg("--users").arg(&users);
        let log = fs::File::create(folder.join("ksmbd.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let daemon = command.spawn().with_context(|| PROGRAM.to_owned())?;
        fs::write(folder.join("server.pid"), daemon.id().to_string())?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Ksmbd { daemon, address };
        server.wait_up(folder)?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn wait_up(&mut self, folder: &Path) -> anyhow::Result<()> {
        let end = Instant::now() + BOUND;
        // It listens before it knows its shares.
        while state().as_deref() != Some("running") || TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.daemon.try_wait()? {
                let log = fs::read_to_string(folder.join("ksmbd.log")).unwrap_or_default();
                bail!("{PROGRAM} ended with {status}: {}", log.trim());
            }
            if Instant::now() >= end {
                bail!("ksmbd does not listen on {} after {BOUND:?}", self.address);
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

impl Drop for Ksmbd {
    fn drop(&mut self) {
        // The kernel's part does not end with its daemon.
        let _ = fs::write(Path::new(CONTROL).join("kill_server"), "hard");
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let end = Instant::now() + BOUND;
        while state().is_some_and(|state| state != "startup") && Instant::now() < end {
            std::thread::yield_now();
        }
    }
}

/// `startup`, `running`, `resetting` or `shutdown`; none where there is no ksmbd.
fn state() -> Option<String> {
    let text = fs::read_to_string(Path::new(CONTROL).join("stats")).ok()?;
    // A number for the layout of the file, and the state.
    Some(text.split_whitespace().nth(1)?.to_owned())
}

fn text(export: &Path, port: u16) -> String {
    let export = export.display();
    format!(
        "[global]\n\ttcp port = {port}\n\tinterfaces = lo\n\tbind interfaces only = yes\n\
         \tserver signing = disabled\n[share]\n\tpath = {export}\n\tread only = no\n\
         \tvalid users = root\n"
    )
}

/// What the client mounts, and with which options, through a proxy at this port.
pub fn client(port: u16) -> (String, String) {
    let host = Ipv4Addr::LOCALHOST;
    let options = format!(
        "ip={host},unc=\\\\{host}\\share,port={port},username=root,password={PASSWORD},vers=3.0,cache=none,noserverino,nosharesock"
    );
    (format!("//{host}/share"), options)
}
