//! A mounted: a mounted target with its gate, on which one variant after the other is played.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use inflight_gate::Client;
use nix::mount::{MsFlags, mount};

use crate::kit::bounds::scaled;
use crate::kit::sys;
use crate::kit::verdict::not_run;
use crate::target::network::{Caching, Kind, Share};
use crate::target::session;
use crate::target::{Served, Target};

/// Longest that making or removing a mount may take.
const BOUND: Duration = Duration::from_secs(30);

/// Size of the image of an Inflight mount.
const IMAGE: &str = "512M";
/// Size of the image below a loop device, and of the file in it: xfs takes no less than 300 MiB.
const LOOP_IMAGE: &str = "1G";
const LOOP_FILE: u64 = 320 << 20;

/// A FUSE mount with a gate.
#[derive(Debug)]
struct Server {
    /// Of an Inflight mount.
    image: Option<PathBuf>,
    /// The proxy in front of somebody's server.
    proxy: Option<Child>,
    mountpoint: PathBuf,
    socket: PathBuf,
    gate: Client,
}

/// A mounted target.
#[derive(Debug)]
pub struct Mounted {
    folder: PathBuf,
    /// Where the filesystem under test is mounted.
    top: PathBuf,
    target: Target,
    server: Option<Server>,
    device: Option<PathBuf>,
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
        let device = sys::attach_loop(&file).map_err(|error| not_run(format!("{error:#}")))?;
        self.device = Some(device.clone());
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
        if let Some(device) = self.device.take() {
            let _ = sys::detach_loop(&device);
        }
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

impl Server {
    fn start(folder: &Path, at: &Path, size: &str, options: &str) -> anyhow::Result<Server> {
        let program = program()?;
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
    fn behind_gate(
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

/// The `inflight` program: `$INFLIGHT`, the one beside this program, or the one in `$PATH`.
///
/// # Errors
/// NOTRUN when there is none.
pub fn program() -> anyhow::Result<PathBuf> {
    tool("inflight", "INFLIGHT")
}

/// Asks whoever will mount a target whether it takes these options, before anything is mounted: a misspelt one is one error,
/// and not one of each variant. Where that program is missing, nothing is said: the variants say that.
///
/// # Errors
/// What it says of them; or the target is not mounted with options.
pub fn check_options(target: &Target, options: &str) -> anyhow::Result<()> {
    if options.is_empty() {
        return Ok(());
    }
    ensure!(
        target.is_gated(),
        "-o {options}: these are options of Inflight mounts, and {} is none; leave -o out",
        target.name()
    );
    let (name, variable) = match target {
        Target::Server(_) => ("inflight-gate", "INFLIGHT_GATE"),
        _ => ("inflight", "INFLIGHT"),
    };
    let Ok(program) = tool(name, variable) else { return Ok(()) };
    let mut command = Command::new(program);
    match target {
        Target::Server(_) => command.args(["--fake", "-o", options, "/", "--", "true", "{}"]),
        _ => command.args(["mount", "--fake", "--force", "-o", options, "/dev/null", "/"]),
    };
    let Ok(output) = command.stdin(Stdio::null()).output() else { return Ok(()) };
    let said = String::from_utf8_lossy(&output.stderr);
    // An older program does not know how to be asked.
    if output.status.success() || said.contains("unexpected argument '--fake'") {
        return Ok(());
    }
    bail!("-o {options}: {}", said.trim().trim_start_matches(name).trim_start_matches(": "))
}

/// A program of this project.
fn tool(name: &str, variable: &str) -> anyhow::Result<PathBuf> {
    if let Some(program) = std::env::var_os(variable) {
        return Ok(PathBuf::from(program));
    }
    let own = std::env::current_exe().context("our own path")?;
    let beside = own.parent().into_iter().chain(own.parent().and_then(Path::parent));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> =
        beside.map(Path::to_owned).chain(std::env::split_paths(&path)).collect();
    let found = folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| {
        not_run(format!(
            "no `{name}` beside this program nor in $PATH; build it, or set ${variable}"
        ))
    })
}

/// The program that makes a target's filesystem on its loop device, if it lies on one.
pub fn mkfs(target: &Target) -> Option<&'static str> {
    match target {
        Target::Ext4 => Some("mkfs.ext4"),
        Target::Xfs => Some("mkfs.xfs"),
        Target::Btrfs => Some("mkfs.btrfs"),
        Target::Vfat => Some("mkfs.vfat"),
        Target::Inflight | Target::Tmpfs | Target::Overlay | Target::Dir(_) | Target::Server(_) => {
            None
        }
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

fn need_fuse() -> anyhow::Result<()> {
    let opened = File::options().read(true).write(true).open("/dev/fuse");
    opened.map(drop).map_err(|error| {
        not_run(format!("/dev/fuse: {error}; `modprobe fuse` makes it, scripts/setup opens it"))
    })
}

/// Runs a program to its end; its standard error is the error.
fn run(command: &mut Command) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(not_run(format!("{name} is not installed; scripts/setup --all brings it")));
        }
        other => other.with_context(|| name.clone())?,
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{name}: {}: {}", output.status, text.trim());
    }
    Ok(output)
}
