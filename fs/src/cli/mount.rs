//! `inflight mount`: in the background by default, in a process of its own.

use crate::cli::undertaker::Undertaker;
use crate::mounted::{MountRequest, Mounted};
use crate::options::Options;
use anyhow::{Context as _, bail};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What to mount, and how.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// Mount options, separated by commas; see the README.
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Serve from this process instead of one in the background.
    #[arg(short, long)]
    foreground: bool,
    /// Park requests on command, over this socket.
    #[arg(long, value_name = "SOCKET")]
    gate: Option<PathBuf>,
    /// Where the background server writes its messages.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Mount over a directory that is not empty: what is in it is hidden meanwhile.
    #[arg(long)]
    force: bool,
    /// Look at the options and the mount point, and mount nothing.
    #[arg(long)]
    fake: bool,
    /// Serve, and report on standard output, to this process, whether the mount answers.
    #[arg(long, hide = true, value_name = "PID")]
    report: Option<i32>,
    /// File or block device.
    image: PathBuf,
    /// Directory.
    mountpoint: PathBuf,
}

impl MountArgs {
    /// True in the server that another `inflight mount` started.
    pub(super) fn is_in_background(&self) -> bool {
        self.report.is_some()
    }

    /// As mount(8) passes them to a helper.
    pub(super) fn for_helper(image: PathBuf, mountpoint: PathBuf, options: Vec<String>) -> Self {
        MountArgs {
            options,
            foreground: false,
            gate: None,
            log: None,
            // mount(8) does not ask either.
            force: true,
            fake: false,
            report: None,
            image,
            mountpoint,
        }
    }
}

pub(super) fn run(args: &MountArgs, verbose: u8, no_wait: bool) -> anyhow::Result<()> {
    if args.fake {
        return request(args).map(drop);
    }
    if !args.foreground && args.report.is_none() {
        return in_background(args, verbose, no_wait);
    }
    if let Some(parent) = args.report {
        // Ctrl-C and the end of this terminal are not for the server.
        nix::unistd::setsid().context("cannot leave the session of the terminal")?;
        go_with(parent)?;
    }
    match (open_log(args).and_then(|log| serve(args, log)), args.report.is_some()) {
        (Err(e), true) => {
            // Before the mount was reported the parent reads this, afterwards the log.
            let _ = write!(std::io::stdout(), "{}", super::one_line(&e));
            std::process::exit(1)
        }
        (result, _) => result,
    }
}

fn request(args: &MountArgs) -> anyhow::Result<MountRequest> {
    let mut options = Options::default();
    args.options.iter().try_for_each(|list| options.add(list))?;
    let dir = &args.mountpoint;
    super::umount::clear_dead(dir)?;
    let mountpoint = std::fs::canonicalize(dir).with_context(|| match dir.symlink_metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            format!("there is no mount point {0}; make it with mkdir {0}", dir.display())
        }
        _ => format!("mount point {}", dir.display()),
    })?;
    if !mountpoint.is_dir() {
        bail!("mount point {} is not a directory; make one, and mount there", dir.display());
    }
    // A directory that cannot be read is left to mount(2).
    let filled =
        || std::fs::read_dir(&mountpoint).is_ok_and(|mut entries| entries.next().is_some());
    if !args.force && (mountpoint == Path::new("/") || filled()) {
        let what = "is not empty, and what is in it would be hidden; --force mounts over it";
        bail!("mount point {} {what}", dir.display());
    }
    let opened: fn() = || {
        // Cannot fail with this argument (prctl(2)).
        let _ = nix::sys::prctl::set_pdeathsig(None);
    };
    // The mount table names it, and whoever looks for it there comes by other links. What is missing is told later.
    let image = std::fs::canonicalize(&args.image).unwrap_or_else(|_| args.image.clone());
    Ok(MountRequest { image, mountpoint, options, gate: args.gate.clone(), opened })
}

/// Serves until the mount goes; a server in the background writes to `log` from when the mount answers.
fn serve(args: &MountArgs, log: Option<File>) -> anyhow::Result<()> {
    let request = request(args)?;
    // Blocked before the first thread starts, so that only the watcher below gets them.
    let mut signals = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|s| signals.add(s));
    signals.thread_block()?;
    let mountpoint = request.mountpoint.clone();
    let auto_unmount = request.options.auto_unmount;
    let mounted = Mounted::start(request)?;
    let _guard = auto_unmount.then(|| Undertaker::start(&mountpoint)).transpose()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        while let Ok(signal) = signals.wait() {
            tracing::info!("{signal}: unmounting {}", mountpoint.display());
            super::umount::detach(&mountpoint);
        }
    })?;
    if let Some(log) = log {
        report_ready(&log)?;
    }
    Ok(mounted.run()?)
}

/// Until the mount is about to be made ([`MountRequest::opened`]) this process goes with its parent: a user who
/// interrupted the command is not to find the image mounted later.
fn go_with(parent: i32) -> anyhow::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // It may have died before; then this process was given to another one.
    anyhow::ensure!(nix::unistd::getppid().as_raw() == parent, "interrupted");
    Ok(())
}

/// Where a server in the background writes. Opened before anything is mounted: afterwards it would be too late to refuse.
fn open_log(args: &MountArgs) -> anyhow::Result<Option<File>> {
    if args.report.is_none() {
        return Ok(None);
    }
    let (path, how) = match &args.log {
        Some(path) => (path.as_path(), File::options().append(true).create(true).clone()),
        None => (Path::new("/dev/null"), File::options().read(true).write(true).clone()),
    };
    Ok(Some(how.open(path).with_context(|| format!("cannot write to {}", path.display()))?))
}

/// Tells the parent that the mount is there, and lets go of its terminal.
fn report_ready(log: &File) -> anyhow::Result<()> {
    std::env::set_current_dir("/")?;
    nix::unistd::dup2_stderr(log.as_fd())?;
    // The parent may be gone, killed while it waited; the mount is there all the same.
    let _ = write!(std::io::stdout(), "ok").and_then(|()| std::io::stdout().flush());
    nix::unistd::dup2_stdout(log.as_fd())?;
    Ok(())
}

fn in_background(args: &MountArgs, verbose: u8, no_wait: bool) -> anyhow::Result<()> {
    request(args)?;
    let mut command = Command::new(std::env::current_exe()?);
    // A copy that is called mount.fuse.inflight would take itself for mount(8)'s helper again.
    command.arg0("inflight");
    command.args(std::iter::repeat_n("-v", usize::from(verbose)));
    command.args(["mount", "--report", &std::process::id().to_string()]);
    command.args(no_wait.then_some("--no-wait")).args(args.force.then_some("--force"));
    for options in &args.options {
        command.args(["-o", options]);
    }
    for (flag, path) in [("--gate", &args.gate), ("--log", &args.log)] {
        if let Some(path) = path {
            command.arg(flag).arg(absolute(path)?);
        }
    }
    command.arg(absolute(&args.image)?).arg(&args.mountpoint);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start the server")?;
    let mut said = String::new();
    // Standard output ends when the server lets go of it, which is when the mount answers.
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut said)?;
    }
    match said.as_str() {
        "ok" => Ok(()),
        "" => bail!(
            "the server ended without a word ({}); --foreground -v shows how far it comes",
            child.wait()?
        ),
        why => bail!("{why}"),
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}
