//! A mounted target with its gate, on which one variant after the other is played.

mod server;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use inflight_gate::Client;
use nix::mount::{MsFlags, mount};

use server::Server;

use crate::kit::bounds::scaled;
use crate::kit::loop_device::Attached;
use crate::kit::verdict::not_run;
use crate::target::Target;
use crate::target::network::{Caching, Kind, Share};
use crate::target::programs::{mkfs, run};
use crate::target::session;

/// Longest that making or removing a mount may take.
const BOUND: Duration = Duration::from_secs(30);

/// Size of the image of an Inflight mount.
const IMAGE: &str = "512M";
/// Size of the image below a loop device, and of the file in it: xfs takes no less than 300 MiB.
const LOOP_IMAGE: &str = "1G";
const LOOP_FILE: u64 = 320 << 20;

/// A mounted target.
#[derive(Debug)]
pub struct Mounted {
    folder: PathBuf,
    /// Where the filesystem under test is mounted.
    top: PathBuf,
    target: Target,
    server: Option<Server>,
    device: Option<Attached>,
    /// Network filesystems beside it, made when they are asked for.
    shares: Vec<(Kind, Arc<Share>)>,
}

impl Mounted {
    /// Sets a target up below `folder`, which must not exist.
    ///
    /// # Errors
    /// NOTRUN when the machine lacks what it takes, otherwise what failed.
    pub fn new(target: &Target, options: &str, folder: &Path) -> anyhow::Result<Mounted> {
        fs::create_dir(folder).with_context(|| folder.display().to_string())?;
        let mut mounted = Mounted {
            folder: folder.to_owned(),
            top: folder.join("top"),
            target: target.clone(),
            server: None,
            device: None,
            shares: Vec::new(),
        };
        let made = mounted.make(options);
        if let Err(error) = made {
            mounted.teardown();
            return Err(error);
        }
        Ok(mounted)
    }

    fn make(&mut self, options: &str) -> anyhow::Result<()> {
        if let Target::Dir(path) = &self.target {
            // Written down before it exists, so that the guard knows it whenever we are killed.
            self.top = path.join(self.hidden_name());
            fs::write(self.folder.join(session::OUTSIDE), self.top.as_os_str().as_encoded_bytes())?;
            return fs::create_dir(&self.top).map_err(|error| {
                not_run(format!("target {}: cannot make a folder in it: {error}", path.display()))
            });
        }
        if let Target::Server(served) = &self.target {
            let at = self.folder.join("mnt");
            fs::create_dir(&at)?;
            self.server = Some(Server::behind_gate(served, &self.folder, &at, options)?);
            // What it serves may be a folder that stays.
            self.top = at.join(self.hidden_name());
            return fs::create_dir(&self.top).with_context(|| self.top.display().to_string());
        }
        fs::create_dir(&self.top)?;
        match self.target {
            Target::Inflight => {
                let server = Server::start(&self.folder, &self.top, IMAGE, options)?;
                self.server = Some(server);
                Ok(())
            }
            Target::Ext4 | Target::Xfs | Target::Btrfs | Target::Vfat => self.make_looped(options),
            Target::Tmpfs => mount_as("tmpfs", "tmpfs", &self.top, "size=256m"),
            Target::Overlay => self.make_overlay(),
            Target::Dir(_) | Target::Server(_) => unreachable!("handled above"),
        }
    }

    /// Name of a folder in a place that is not ours.
    fn hidden_name(&self) -> String {
        let session = self.folder.parent().and_then(Path::file_name).unwrap_or_default();
        let mounted = self.folder.file_name().unwrap_or_default();
        format!(".{}.{}", session.to_string_lossy(), mounted.to_string_lossy())
    }

    fn make_looped(&mut self, options: &str) -> anyhow::Result<()> {
        need_root("a loop device")?;
        let base = self.folder.join("base");
        fs::create_dir(&base)?;
        self.server = Some(Server::start(&self.folder, &base, LOOP_IMAGE, options)?);
        let backing = base.join("loop");
        let file = File::options().create_new(true).read(true).write(true).open(&backing)?;
        file.set_len(LOOP_FILE).context("size of the loop file")?;
        let attached = Attached::to(&file)?;
        let device = attached.path().to_owned();
        self.device = Some(attached);
        let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let direct = fs::read_to_string(format!("/sys/block/{name}/loop/dio")).unwrap_or_default();
        ensure!(direct.trim() == "1", "{} has no direct I/O", device.display());
        let (arguments, kind): (&[&str], &str) = match self.target {
            Target::Ext4 => (&["-q", "-F", "-E", "lazy_itable_init=0"], "ext4"),
            Target::Xfs => (&["-q", "-f"], "xfs"),
            // It takes a whole device only when it is told to.
            Target::Vfat => (&["-I"], "vfat"),
            _ => (&["-q", "-f", "-m", "single"], "btrfs"),
        };
        let tool = mkfs(&self.target).context("not a filesystem on a device")?;
        run(Command::new(tool).args(arguments).arg(&device))?;
        // Without data checksums btrfs writes in place, and direct writes are direct.
        let options = if kind == "btrfs" { "nodatacow" } else { "" };
        mount_as(kind, &device.to_string_lossy(), &self.top, options)
    }

    fn make_overlay(&mut self) -> anyhow::Result<()> {
        let layers = self.folder.join("layers");
        fs::create_dir(&layers)?;
        mount_as("tmpfs", "tmpfs", &layers, "size=256m")?;
        for layer in ["lower", "upper", "work"] {
            fs::create_dir(layers.join(layer))?;
        }
        let at = |layer: &str| layers.join(layer).display().to_string();
        let (lower, upper, work) = (at("lower"), at("upper"), at("work"));
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        mount_as("overlay", "overlay", &self.top, &options)
    }

    /// Where the filesystem under test is mounted.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// A folder of the session's for something else that is mounted, which the guard will find.
    pub fn folder_beside(&self, name: &str) -> PathBuf {
        let own = self.folder.file_name().unwrap_or_default().to_string_lossy();
        self.folder.with_file_name(format!("{own}-{name}"))
    }

    /// Changes a setting of the kernel until the session ends; see [`crate::target::borrow`].
    ///
    /// # Errors
    /// NOTRUN when this kernel does not have it, or we may not change it.
    pub fn borrow(&self, setting: &str, value: &str) -> anyhow::Result<()> {
        let root = self.folder.parent().context("a mounted lies in its session")?;
        crate::target::borrow::borrow(root, setting, value)
            .map_err(|error| not_run(format!("{error:#}")))
    }

    /// A network filesystem beside the target, with nothing held back.
    ///
    /// # Errors
    /// NOTRUN when the machine lacks what it takes, otherwise what failed.
    pub fn share(&mut self, kind: Kind) -> anyhow::Result<Arc<Share>> {
        if let Some((_, share)) = self.shares.iter().find(|(known, _)| *known == kind) {
            share.proxy()?.release()?;
            return Ok(Arc::clone(share));
        }
        let share = Arc::new(Share::new(kind, &self.folder_beside(kind.name()), Caching::Off)?);
        self.shares.push((kind, Arc::clone(&share)));
        Ok(share)
    }

    /// What is mounted.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The gate.
    ///
    /// # Errors
    /// The target has none; a case that needs one says so, and is not run on it.
    pub fn gate(&mut self) -> anyhow::Result<&mut Client> {
        let target = self.target.name();
        let server = self.server.as_mut();
        Ok(&mut server.with_context(|| format!("{target} has no gate"))?.gate)
    }

    /// Whether there is a gate.
    pub fn is_gated(&self) -> bool {
        self.server.is_some()
    }

    /// A second connection to the gate, for another thread.
    ///
    /// # Errors
    /// There is none, or it is gone.
    pub fn gate_again(&self) -> anyhow::Result<Client> {
        let server = self.server.as_ref().context("no gate")?;
        Ok(Client::connect(&server.socket)?)
    }

    /// The image file of the Inflight mount.
    ///
    /// # Errors
    /// NOTRUN where the gate is in front of somebody's server.
    pub fn image(&self) -> anyhow::Result<&Path> {
        let image = self.server.as_ref().context("no image")?.image.as_deref();
        image.ok_or_else(|| not_run(format!("{} has no Inflight image", self.target.name())))
    }

    /// Where the gated mount is: the target itself, or what is below its loop device.
    ///
    /// # Errors
    /// The target is not Inflight.
    pub fn base(&self) -> anyhow::Result<&Path> {
        Ok(&self.server.as_ref().context("no Inflight mount")?.mountpoint)
    }

    /// Aborts the FUSE connection of the Inflight mount.
    ///
    /// # Errors
    /// No mount, or no right to.
    pub fn abort(&self) -> anyhow::Result<()> {
        let base = self.base()?;
        let mounts = session::mounts_below(base);
        let mount = mounts.iter().find(|mount| mount.path == base).context("not mounted")?;
        if !mount.abort() {
            return Err(not_run(
                "cannot write the abort file of the connection (no fusectl, no root)",
            ));
        }
        Ok(())
    }

    /// Takes everything down, by force where it must be.
    pub fn teardown(&mut self) {
        self.shares.clear();
        if let Some(server) = &mut self.server {
            let _ = server.gate.open();
        }
        if matches!(self.target, Target::Dir(_) | Target::Server(_)) {
            let _ = fs::remove_dir_all(&self.top);
        }
        let mut mounts = session::mounts_below(&self.folder);
        mounts.reverse();
        let (base, above): (Vec<_>, Vec<_>) =
            mounts.into_iter().partition(|mount| mount.path.ends_with("base"));
        above.iter().for_each(session::unmount);
        drop(self.device.take());
        base.iter().for_each(session::unmount);
        if let Some(server) = self.server.take() {
            let pid = server.gate.server_pid() as i32;
            let Server { gate, proxy, .. } = server;
            drop(gate);
            session::wait_end(pid, scaled(BOUND));
            if let Some(mut proxy) = proxy {
                let _ = proxy.try_wait();
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn mount_as(kind: &str, source: &str, at: &Path, options: &str) -> anyhow::Result<()> {
    need_root(&format!("mounting {kind}"))?;
    mount(Some(source), at, Some(kind), MsFlags::empty(), Some(options)).map_err(
        |errno| match errno {
            nix::errno::Errno::ENODEV => not_run(format!("this kernel has no {kind}")),
            _ => anyhow::anyhow!("mount {kind} at {}: {errno}", at.display()),
        },
    )
}

fn need_root(what: &str) -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err(not_run(format!("{what} needs root")))
    }
}
