//! The kernel's NFS server without its daemons: what rpc.mountd(8) and rpc.nfsd(8) would tell the kernel is written to
//! its files here. All of it belongs to the network namespace of the thread that starts it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::Caching;
use super::tracker::Tracker;
use crate::kit::verdict::not_run;
use crate::target::session;

/// The caches that rpc.mountd(8) fills, of this thread's network.
const CACHES: &str = "/proc/thread-self/net/rpc";

/// The client as the caches know it.
const DOMAIN: &str = "inflight";

/// End of an entry's life, in seconds since 1970: that of a signed number of 32 bits.
const NEVER: i32 = i32::MAX;

/// NFSEXP_INSECURE_PORT, NFSEXP_ASYNC, NFSEXP_NOSUBTREECHECK and NFSEXP_FSID (include/uapi/linux/nfsd/export.h).
const FLAGS: u32 = 0x2 | 0x10 | 0x400 | 0x2000;

/// A file handle's type for a filesystem with a number (FSID_NUM, fs/nfsd/nfsfh.h).
const BY_NUMBER: u32 = 1;

/// A running server. Stops when it is dropped.
#[derive(Debug)]
pub struct Knfsd {
    control: PathBuf,
    address: SocketAddr,
    _tracker: Tracker,
}

impl Knfsd {
    /// Serves one folder as the root of NFS 4.1 and 4.2; its files are seen in `control`, which must not exist.
    ///
    /// # Errors
    /// NOTRUN when this kernel has no server; otherwise what it refused.
    pub fn start(export: &Path, control: &Path) -> anyhow::Result<Knfsd> {
        fs::create_dir(control)?;
        let mounted = mount(Some("nfsd"), control, Some("nfsd"), MsFlags::empty(), None::<&str>);
        mounted.map_err(|errno| match errno {
            Errno::ENODEV => not_run("this kernel has no nfsd (module nfsd)"),
            _ => anyhow::anyhow!("mount nfsd: {errno}"),
        })?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port for nfsd")?;
        let tracker = Tracker::start(&control.with_extension("pipes"))?;
        let (control, address) = (control.to_owned(), listener.local_addr()?);
        let server = Knfsd { control, address, _tracker: tracker };
        server.write("versions", "-2 -3 +4 -4.0 +4.1 +4.2")?;
        server.write("nfsv4gracetime", "10")?;
        server.write("nfsv4leasetime", "10")?;
        server.write("portlist", &listener.as_raw_fd().to_string())?;
        export_as_root(export)?;
        server.write("threads", "2")?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let line = format!("{text}\n");
        fs::write(self.control.join(file), line)
            .with_context(|| format!("nfsd: '{text}' to {file}"))
    }
}

impl Drop for Knfsd {
    fn drop(&mut self) {
        let _ = self.write("threads", "0");
        session::mounts_below(&self.control).iter().for_each(session::unmount);
    }
}

/// Tells the caches who the client is, and that its root is this folder.
fn export_as_root(export: &Path) -> anyhow::Result<()> {
    let (client, path) = (Ipv4Addr::LOCALHOST, export.display());
    let (nobody, number) = (65534, 0);
    tell("auth.unix.ip", &format!("nfsd {client} {NEVER} {DOMAIN}"))?;
    tell("nfsd.export", &format!("{DOMAIN} {path} {NEVER} {FLAGS} {nobody} {nobody} {number}"))?;
    tell("nfsd.fh", &format!("{DOMAIN} {BY_NUMBER} \\x{number:08x} {NEVER} {path}"))
}

fn tell(cache: &str, entry: &str) -> anyhow::Result<()> {
    let path = format!("{CACHES}/{cache}/channel");
    fs::write(&path, format!("{entry}\n")).with_context(|| format!("'{entry}' to {path}"))
}

/// What the client mounts, and with which options, through a proxy at this port.
pub fn client(port: u16, caching: Caching) -> (String, String) {
    let host = Ipv4Addr::LOCALHOST;
    let fsc = if caching == Caching::On { "fsc," } else { "" };
    let options = format!(
        "{fsc}vers=4.1,addr={host},clientaddr={host},port={port},proto=tcp,sec=sys,noresvport,soft,timeo=600,retrans=1"
    );
    (format!("{host}:/"), options)
}
