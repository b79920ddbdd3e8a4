//! The 9P server diod(8).

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use super::Caching;
use super::daemon::Daemon;

/// The server.
pub const PROGRAM: &str = "diod";

/// Serves one folder; its settings lie in `folder`.
///
/// # Errors
/// NOTRUN when it is not installed; otherwise it did not start.
pub fn start(export: &Path, folder: &Path) -> anyhow::Result<Daemon> {
    Daemon::start(PROGRAM, folder, |command, address| {
        let settings = folder.join("diod.conf");
        fs::write(&settings, "")?;
        // Nobody has a name or a password in a network that only we are in.
        command.args(["--foreground", "--no-auth", "--no-userdb", "--logdest", "stderr"]);
        command.args(["--listen", &address.to_string()]).arg("--export").arg(export);
        command.arg("--config-file").arg(settings);
        Ok(())
    })
}

/// What the client mounts, and with which options, through a proxy at this port.
pub fn client(port: u16, export: &Path, caching: Caching) -> (String, String) {
    let (host, export) = (Ipv4Addr::LOCALHOST, export.display());
    let cache = match caching {
        Caching::Off => "cache=none".to_owned(),
        Caching::On => format!("cache=fscache,cachetag={}", super::cache::TAG),
    };
    let options = format!(
        "trans=tcp,port={port},version=9p2000.L,aname={export},uname=root,access=0,{cache},msize=65536"
    );
    (host.to_string(), options)
}
