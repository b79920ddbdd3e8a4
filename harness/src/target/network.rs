//! Network filesystems that are served on this machine, through a [`proxy`] that can keep answers back.
//!
//! Server, proxy and client live in a network namespace of their own, so that no port and no server of the machine is in
//! the way.

pub mod cache;
mod daemon;
mod diod;
mod knfsd;
pub mod proxy;
mod smbd;
mod tracker;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::kit::sys;
use crate::kit::verdict::not_run;
use crate::target::session;
use daemon::Daemon;
use knfsd::Knfsd;
use proxy::{Framing, Proxy};

/// Network filesystems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// NFS 4.1, served by the kernel.
    Nfs,
    /// SMB 2.1, served by smbd(8): the kernel's own server is young, and its daemon must fit it.
    Cifs,
    /// 9P2000.L over TCP, served by diod(8).
    NineP,
}

/// All of them.
pub const ALL: [Kind; 3] = [Kind::Nfs, Kind::Cifs, Kind::NineP];

impl Kind {
    /// The name in variants.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Nfs => "nfs",
            Kind::Cifs => "cifs",
            Kind::NineP => "9p",
        }
    }

    /// As /proc/filesystems calls it.
    pub fn filesystem(self) -> &'static str {
        match self {
            Kind::Nfs => "nfs4",
            Kind::Cifs => "cifs",
            Kind::NineP => "9p",
        }
    }

    /// Modules of client and server, with what they ask the kernel's crypto and its character sets for by name, which
    /// modules.dep does not show. A kernel need not have them all.
    pub fn modules(self) -> &'static [&'static str] {
        match self {
            Kind::Nfs => &["nfsd", "nfs", "nfsv4", "cachefiles"],
            Kind::Cifs => &[
                "md4",
                "md5",
                "hmac",
                "cmac",
                "sha256_generic",
                "sha512_generic",
                "aes_generic",
                "ecb",
                "ccm",
                "gcm",
                "nls_utf8",
                "cifs",
            ],
            Kind::NineP => &["9pnet", "9pnet_fd", "9p"],
        }
    }

    /// Programs of the server.
    pub fn programs(self) -> &'static [&'static str] {
        match self {
            Kind::Nfs => &[],
            Kind::Cifs => &[smbd::PROGRAM],
            Kind::NineP => &[diod::PROGRAM],
        }
    }

    /// Why it cannot be mounted here, if it cannot.
    ///
    /// # Errors
    /// That, as NOTRUN.
    pub fn check(self) -> anyhow::Result<()> {
        let (name, kind) = (self.name(), self.filesystem());
        if !nix::unistd::geteuid().is_root() {
            return Err(not_run(format!("serving and mounting {name} needs root")));
        }
        if !is_known(kind)? {
            // As mount(2) would have it loaded. Where modprobe(8) is not there, nothing is lost.
            let _ = Command::new("modprobe").args(["--quiet", kind]).status();
            if !is_known(kind)? {
                return Err(not_run(format!("this kernel has no {kind}")));
            }
        }
        for program in self.programs() {
            if sys::find_program(program).is_none() {
                return Err(not_run(format!("{program} is not installed, which serves {name}")));
            }
        }
        let localio = fs::read_to_string("/sys/module/nfs/parameters/localio_enabled");
        if self == Kind::Nfs && localio.is_ok_and(|text| text.trim() == "Y") {
            return Err(not_run(
                "reads would go around the proxy: write N to /sys/module/nfs/parameters/localio_enabled",
            ));
        }
        Ok(())
    }

    fn framing(self) -> Framing {
        match self {
            Kind::Nfs => Framing::Rpc,
            Kind::Cifs => Framing::Smb,
            Kind::NineP => Framing::NineP,
        }
    }
}

/// Whether the kernel can mount a filesystem of this name now.
fn is_known(kind: &str) -> anyhow::Result<bool> {
    let known = fs::read_to_string("/proc/filesystems").context("/proc/filesystems")?;
    Ok(known.split_whitespace().any(|word| word == kind))
}

/// Whether a client may keep what it reads in the machine's [`cache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// It reads directly.
    Off,
    /// It uses the cache; cifs does not.
    On,
}

/// A server of one of them.
#[derive(Debug)]
enum Server {
    Nfs(Knfsd),
    Program(Daemon),
}

impl Server {
    fn address(&self) -> SocketAddr {
        match self {
            Server::Nfs(server) => server.address(),
            Server::Program(server) => server.address(),
        }
    }
}

/// A folder that is served and mounted. Taken down when it is dropped.
#[derive(Debug)]
pub struct Share {
    folder: PathBuf,
    /// None only while it is made and taken down.
    proxy: Option<Proxy>,
    server: Option<Server>,
}

impl Share {
    /// Serves a tmpfs and mounts it, below `folder`, a fresh one of the session's, so that the guard knows it.
    ///
    /// # Errors
    /// NOTRUN when this machine lacks what it takes, otherwise what failed.
    pub fn new(kind: Kind, folder: &Path, caching: Caching) -> anyhow::Result<Share> {
        kind.check()?;
        fs::create_dir(folder).with_context(|| folder.display().to_string())?;
        let mut share = Share { folder: folder.to_owned(), proxy: None, server: None };
        // A thread has a network of its own as long as it, or what it started, is there.
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
                sys::loopback_up()?;
                share.make(kind, caching)
            });
            made.join().map_err(|_| anyhow::anyhow!("making a share panicked"))?
        })?;
        Ok(share)
    }

    fn make(&mut self, kind: Kind, caching: Caching) -> anyhow::Result<()> {
        let (export, top) = (self.export(), self.top());
        for folder in [&export, &top] {
            fs::create_dir(folder)?;
        }
        let none = MsFlags::empty();
        mount(Some("tmpfs"), &export, Some("tmpfs"), none, Some("size=16m,mode=777"))
            .context("mount tmpfs to be served")?;
        let server = match kind {
            Kind::Nfs => Server::Nfs(Knfsd::start(&export, &self.folder.join("nfsd"))?),
            Kind::Cifs => Server::Program(smbd::start(&export, &self.folder)?),
            Kind::NineP => Server::Program(diod::start(&export, &self.folder)?),
        };
        let address = server.address();
        self.server = Some(server);
        let proxy = Proxy::start(kind.framing(), address)?;
        let port = proxy.address().port();
        self.proxy = Some(proxy);
        let (source, options) = match kind {
            Kind::Nfs => knfsd::client(port, caching),
            Kind::Cifs => smbd::client(port),
            Kind::NineP => diod::client(port, &export, caching),
        };
        let mounted = mount(Some(&*source), &top, Some(kind.filesystem()), none, Some(&*options));
        let log = || fs::read_to_string(self.folder.join(daemon::LOG)).unwrap_or_default();
        mounted.map_err(|errno| match errno {
            Errno::ENODEV => not_run(format!("this kernel has no {}", kind.filesystem())),
            _ => anyhow::anyhow!("mount {source} with {options}: {errno}; the server: {}", log()),
        })
    }

    /// The folder that is served, as the server sees it.
    fn export(&self) -> PathBuf {
        self.folder.join("export")
    }

    fn top(&self) -> PathBuf {
        self.folder.join("top")
    }

    /// Where the server and where the client sees a file of this name.
    pub fn paths(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.export().join(name), self.top().join(name))
    }

    /// What stands between the two.
    ///
    /// # Errors
    /// Never, once it is made.
    pub fn proxy(&self) -> anyhow::Result<&Proxy> {
        self.proxy.as_ref().context("the share is not made")
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let unmount = |at: PathBuf| session::mounts_below(&at).iter().for_each(session::unmount);
        // The client says goodbye through the proxy, and the server lets go of what it serves.
        if let Some(proxy) = &self.proxy {
            let _ = proxy.release();
        }
        unmount(self.top());
        drop(self.proxy.take());
        drop(self.server.take());
        unmount(self.export());
        let _ = fs::remove_dir_all(&self.folder);
    }
}
