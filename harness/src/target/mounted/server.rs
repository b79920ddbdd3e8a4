//! The FUSE server of a target, with its gate.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use inflight_gate::Client;

use crate::kit::verdict::not_run;
use crate::target::Served;
use crate::target::programs::{inflight, run, tool};

/// A FUSE mount with a gate.
#[derive(Debug)]
pub(super) struct Server {
    /// Of an Inflight mount.
    pub image: Option<PathBuf>,
    /// The proxy in front of somebody's server.
    pub proxy: Option<Child>,
    pub mountpoint: PathBuf,
    pub socket: PathBuf,
    pub gate: Client,
}

impl Server {
    pub(super) fn start(
        folder: &Path,
        at: &Path,
        size: &str,
        options: &str,
    ) -> anyhow::Result<Server> {
        let program = inflight()?;
        need_fuse()?;
        let (image, socket) = (folder.join("image"), folder.join("gate"));
        run(Command::new(&program).args(["mkfs", "--size", size]).arg(&image))?;
        let mut command = Command::new(&program);
        command.arg("mount").arg("--gate").arg(&socket);
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        run(command.arg(&image).arg(at)).map_err(|error| {
            // What is broken on purpose is there only in a server built for it.
            let text = format!("{error:#}");
            let is_unknown =
                |option: &str| options.contains(option) && text.contains("mount option");
            if is_unknown("pipe-backed") || is_unknown("mutant=") {
                return not_run(format!("the server was built without --features mutants: {text}"));
            }
            error
        })?;
        let gate = Client::connect(&socket)?;
        fs::write(folder.join("server.pid"), gate.server_pid().to_string())?;
        Ok(Server { image: Some(image), proxy: None, mountpoint: at.to_owned(), socket, gate })
    }

    /// Somebody's server, with the gate in front of it. It ends by itself when it is unmounted.
    pub(super) fn behind_gate(
        served: &Served,
        folder: &Path,
        at: &Path,
        options: &str,
    ) -> anyhow::Result<Server> {
        let program = tool("inflight-gate", "INFLIGHT_GATE")?;
        need_fuse()?;
        let (data, log, socket) = (folder.join("data"), folder.join("log"), folder.join("gate"));
        fs::create_dir(&data)?;
        let line = served.command.replace("{dir}", &data.display().to_string());
        let mut command = Command::new(program);
        command.arg("--socket").arg(&socket);
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        if served.intercept {
            command.arg("--intercept");
        }
        command.arg(at).args(["--", "sh", "-c", &format!("exec {line}")]);
        let mut proxy = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .process_group(0)
            .spawn()
            .context("start inflight-gate")?;
        // For the guard, if this process is lost.
        fs::write(folder.join("server.pid"), proxy.id().to_string())?;
        let mut said = String::new();
        let output = proxy.stdout.take().context("no pipe")?;
        // It says that it serves or ends, within a bound of its own.
        BufReader::new(output).read_line(&mut said).context("hear inflight-gate")?;
        if said.is_empty() {
            let _ = proxy.wait();
            bail!("{}: {}", served.command, fs::read_to_string(&log).unwrap_or_default().trim());
        }
        let gate = Client::connect(&socket)?;
        Ok(Server { image: None, proxy: Some(proxy), mountpoint: at.to_owned(), socket, gate })
    }
}

fn need_fuse() -> anyhow::Result<()> {
    let opened = File::options().read(true).write(true).open("/dev/fuse");
    opened.map(drop).map_err(|error| {
        not_run(format!("/dev/fuse: {error}; `modprobe fuse` makes it, scripts/setup opens it"))
    })
}
