//! Samba's SMB server, smbd(8), for guests without a name and a password.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::daemon::Daemon;

/// The server.
pub const PROGRAM: &str = "smbd";

/// Serves one folder as `share`; whatever it writes down lies in `folder`.
///
/// # Errors
/// NOTRUN when it is not installed; otherwise it did not start.
pub fn start(export: &Path, folder: &Path) -> anyhow::Result<Daemon> {
    let own = folder.join("smbd");
    fs::create_dir(&own)?;
    Daemon::start(PROGRAM, folder, |command, address| {
        let settings = folder.join("smb.conf");
        fs::write(&settings, text(export, &own, address))?;
        command.args(["--foreground", "--no-process-group", "--debug-stdout", "--configfile"]);
        command.arg(settings);
        Ok(())
    })
}

fn text(export: &Path, own: &Path, address: SocketAddr) -> String {
    let (export, own, port) = (export.display(), own.display(), address.port());
    let mut text = format!("[global]\nsmb ports = {port}\n");
    for folder in ["state", "cache", "lock", "pid"] {
        text += &format!("{folder} directory = {own}\n");
    }
    text += &format!("private dir = {own}\nncalrpc dir = {own}/rpc\n");
    text += "interfaces = lo\nbind interfaces only = yes\ndisable netbios = yes\n\
             server role = standalone server\nmap to guest = Bad User\nguest account = root\n\
             load printers = no\nprinting = bsd\nprintcap name = /dev/null\ndisable spoolss = yes\n\
             usershare max shares = 0\nkernel oplocks = no\nsmb2 leases = no\n";
    text + &format!("[share]\npath = {export}\nread only = no\nguest only = yes\noplocks = no\n")
}

/// What the client mounts, and with which options, through a proxy at this port.
pub fn client(port: u16) -> (String, String) {
    let host = Ipv4Addr::LOCALHOST;
    let options = format!(
        "ip={host},unc=\\\\{host}\\share,port={port},sec=none,vers=2.1,cache=none,noserverino,nosharesock"
    );
    (format!("//{host}/share"), options)
}
