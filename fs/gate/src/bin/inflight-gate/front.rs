//! The gate in front of one server: mounts, starts it, watches both ends, cleans up.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use inflight_fuse::channel::{Channel, Config, Intake, pair};
use inflight_fuse::mount::MountOptions;
use inflight_gate::proxy::{Agreement, Ended, MESSAGE_EXTRA, Proxy};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::intercept::{Catcher, MountCall};
use crate::watch::{self, Watcher};
use crate::{FrontArgs, mountpoint, options};

/// What stands for the mount point in a server's arguments.
const PLACE: &[u8] = b"{}";

/// How long a server may take until it answers INIT.
const START: Duration = Duration::from_secs(30);

/// How long a server that closed its device may take to end.
const END: Duration = Duration::from_secs(1);

/// Between two looks at signals and at the server's process.
const SLICE: Duration = Duration::from_millis(50);

/// What is put in front of what, checked.
#[derive(Debug)]
pub struct Front {
    mountpoint: PathBuf,
    socket: PathBuf,
    options: MountOptions,
    max_write: u32,
    intercept: bool,
    server: Vec<OsString>,
}

/// The server's and the kernel's end of the connection between proxy and server.
struct Ends {
    theirs: OwnedFd,
    kernel: pair::Kernel,
    config: Config,
}

impl Front {
    /// # Errors
    /// What cannot be meant.
    pub fn new(arguments: FrontArgs) -> anyhow::Result<Front> {
        let FrontArgs {
            socket,
            options: text,
            fake: _,
            intercept,
            max_request,
            mountpoint,
            server,
        } = arguments;
        let name = server[0].display().to_string();
        ensure!(
            server.iter().skip(1).any(|word| replaced(word, b"").is_some()),
            "no argument of {name} contains {{}}: write {{}} where it takes its mount point"
        );
        let base = Path::new(&server[0]).file_name().unwrap_or(&server[0]).to_string_lossy();
        let mut options = MountOptions {
            source: server[0].clone(),
            subtype: Some(base.into_owned()),
            ..MountOptions::default()
        };
        options::parse(&text, &mut options)?;
        inflight_fuse::mount::check(&options)?;
        let own = || std::env::temp_dir().join(format!("inflight-gate.{}", std::process::id()));
        Ok(Front {
            mountpoint: mountpoint::check(&mountpoint)?,
            socket: socket.unwrap_or_else(own),
            options,
            max_write: max_request << 10,
            intercept,
            server,
        })
    }

    /// Serves until it is unmounted.
    ///
    /// # Errors
    /// It cannot be mounted or served, or the server ended first.
    pub fn run(self) -> anyhow::Result<()> {
        let signals = Signals::catch()?;
        let mut watcher = Watcher::start(&self.mountpoint)?;
        let served = self.serve(&mut watcher, &signals);
        watcher.dismiss();
        served
    }

    fn serve(&self, watcher: &mut Watcher, signals: &Signals) -> anyhow::Result<()> {
        let ends = self.ends()?;
        if !self.intercept {
            let (mount, proxy) = self.mount(ends.kernel, ends.config, &self.options, watcher)?;
            let place = format!("/dev/fd/{}", ends.theirs.as_raw_fd());
            let process = self.start(place.as_ref(), &ends.theirs, &[])?;
            watcher.tell("server", process.id())?;
            drop(ends.theirs);
            return self.follow(mount, proxy, process, signals);
        }
        let (catcher, mut process) = self.start_caught()?;
        watcher.tell("server", process.id())?;
        let mounted = self.wait_for_mount(&catcher, &mut process, signals).and_then(|call| {
            let made = self.mount(ends.kernel, ends.config, &call.options, watcher);
            if made.is_err() {
                catcher.refuse(&call, Errno::EPERM);
            }
            let made = made?;
            catcher.grant(&call, &ends.theirs).context("hand the socket to the server")?;
            Ok(made)
        });
        drop(ends.theirs);
        match mounted {
            Ok((mount, proxy)) => {
                let close = move || catcher.close();
                std::thread::Builder::new().name("gate-mounts".to_owned()).spawn(close)?;
                self.follow(mount, proxy, process, signals)
            }
            Err(error) => {
                drop(catcher);
                end(process);
                Err(error)
            }
        }
    }

    fn ends(&self) -> anyhow::Result<Ends> {
        let message_max = self.max_write as usize + MESSAGE_EXTRA;
        let (theirs, ours) = pair::sockets(message_max).with_context(|| {
            format!("sockets for messages of {message_max} bytes; try a smaller --max-request")
        })?;
        let intake = Some(Arc::new(Intake::new().context("eventfd(2)")?));
        let config = Config { max_write: self.max_write, intake, ..Config::plain()? };
        let kernel = pair::Kernel::new(ours, config.pool.clone(), message_max);
        Ok(Ends { theirs, kernel, config })
    }

    /// Mounts, and starts the proxy.
    fn mount(
        &self,
        kernel: pair::Kernel,
        config: Config,
        options: &MountOptions,
        watcher: &mut Watcher,
    ) -> anyhow::Result<(Mounted<'_>, Proxy)> {
        let (device, number) = mountpoint::make(&self.mountpoint, options)?;
        let mount = Mounted { at: &self.mountpoint, number };
        watcher.tell("device", &mount.number)?;
        let device = Channel::device(device, config)?;
        let proxy = Proxy::start(device, kernel, &self.socket, self.max_write)?;
        Ok((mount, proxy))
    }

    /// Serves until one end is over.
    fn follow(
        &self,
        mount: Mounted<'_>,
        proxy: Proxy,
        mut process: Child,
        signals: &Signals,
    ) -> anyhow::Result<()> {
        let ended = self.begin(&proxy, &mut process, signals).map(|agreement| {
            self.announce(&agreement);
            follow(&proxy, &mount, signals)
        });
        // An unmounted server has its connection closed and ends by itself; others are dead to the kernel now.
        drop(mount);
        drop(proxy);
        let status = end(process);
        match ended? {
            Ended::Closed => Ok(()),
            Ended::ServerGone => bail!("{} ended ({status}) while it was mounted", self.name()),
            Ended::Failed(reason) => bail!("{}: {reason}", self.name()),
        }
    }

    fn name(&self) -> String {
        self.server[0].display().to_string()
    }

    /// Starts the server with `place` for its mount point. It inherits `socket`.
    fn start(&self, place: &OsStr, socket: &OwnedFd, more: &[String]) -> anyhow::Result<Child> {
        let place = place.as_bytes();
        let words =
            self.server.iter().map(|word| replaced(word, place).unwrap_or_else(|| word.clone()));
        // No other process is started while it may be inherited.
        fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty())).context("fcntl(F_SETFD)")?;
        Command::new(std::env::current_exe().context("our own path")?)
            .args(["launch", "--parent", &std::process::id().to_string()])
            .args(more)
            .arg("--")
            .args(words)
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", self.name()))
    }

    /// Starts the server so that its mount(2) is caught.
    fn start_caught(&self) -> anyhow::Result<(Catcher, Child)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (theirs, ours) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
        let more = ["--listener".to_owned(), theirs.as_raw_fd().to_string()];
        let process = self.start(self.mountpoint.as_os_str(), &theirs, &more)?;
        drop(theirs);
        let caught = Catcher::receive(&ours);
        match caught {
            Ok(catcher) => Ok((catcher, process)),
            Err(error) => {
                end(process);
                Err(error).context("no mount(2) of a server can be caught here")
            }
        }
    }

    /// Waits until the server calls mount(2).
    fn wait_for_mount(
        &self,
        catcher: &Catcher,
        process: &mut Child,
        signals: &Signals,
    ) -> anyhow::Result<MountCall> {
        let begun = Instant::now();
        while begun.elapsed() < START && signals.count() == 0 {
            match catcher.wait(SLICE) {
                Ok(Some(call)) => return Ok(call),
                Ok(None) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    let status = ended_within(process, END);
                    let status = status.map_or_else(String::new, |status| format!(" ({status})"));
                    bail!(
                        "{} ended{status} before it mounted; see what it said, or start it alone",
                        self.name()
                    );
                }
                Err(error) => return Err(error).context("wait for the server's mount(2)"),
            }
        }
        ensure!(signals.count() == 0, "interrupted before {} mounted", self.name());
        bail!(
            "{} has not mounted within {START:?}; is {{}} where it takes its mount point?",
            self.name()
        )
    }

    /// Waits until the server has answered INIT.
    fn begin(
        &self,
        proxy: &Proxy,
        process: &mut Child,
        signals: &Signals,
    ) -> anyhow::Result<Agreement> {
        let begun = Instant::now();
        let mut status = None;
        while begun.elapsed() < START && signals.count() == 0 {
            match proxy.agreement(SLICE) {
                Ok(Some(agreement)) => return Ok(agreement),
                Ok(None) => {}
                Err(Ended::Failed(reason)) => bail!("{}: {reason}", self.name()),
                Err(Ended::Closed) => bail!("{} was unmounted", self.mountpoint.display()),
                Err(Ended::ServerGone) => {
                    bail!("{}", self.refusal(status.or_else(|| ended_within(process, END))));
                }
            }
            // One that goes into the background ends well, and its child serves.
            status = status.or_else(|| process.try_wait().ok().flatten());
        }
        ensure!(signals.count() == 0, "interrupted before {} answered INIT", self.name());
        bail!("{} has not answered INIT within {START:?}", self.name())
    }

    fn refusal(&self, status: Option<ExitStatus>) -> String {
        let status =
            status.map_or_else(|| "closed its device".to_owned(), |it| format!("ended ({it})"));
        format!(
            "{} {status} before it answered INIT; {}",
            self.name(),
            match self.intercept {
                true => "see what it said, or start it alone",
                false =>
                    "does it take /dev/fd/N for a mount point, as servers of libfuse 3.3 and later do? \
                          Others need --intercept",
            }
        )
    }

    fn announce(&self, agreement: &Agreement) {
        let (at, socket) = (self.mountpoint.display(), self.socket.display());
        // Whoever started it may not listen any more.
        let _ = writeln!(std::io::stdout(), "{at}: served by {}, gate at {socket}", self.name());
        if !agreement.masked.is_empty() {
            eprintln!("inflight-gate: not offered to the server: {}", agreement.masked.join(", "));
        }
        let (wanted, holds) = agreement.max_write;
        if holds < wanted {
            let kib = |bytes: u32| bytes >> 10;
            eprintln!(
                "inflight-gate: requests of {} KiB, not {}: see --max-request",
                kib(holds),
                kib(wanted)
            );
        }
    }
}

/// How a process ended, if it does within `bound`.
fn ended_within(process: &mut Child, bound: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    loop {
        match process.try_wait() {
            Ok(None) if begun.elapsed() < bound => std::thread::sleep(SLICE),
            other => return other.ok().flatten(),
        }
    }
}

/// A word with every `{}` replaced; `None` when it has none.
fn replaced(word: &OsStr, place: &[u8]) -> Option<OsString> {
    let mut rest = word.as_bytes();
    let mut bytes = Vec::new();
    let mut found = false;
    while let Some(at) = rest.windows(PLACE.len()).position(|window| window == PLACE) {
        bytes.extend_from_slice(&rest[..at]);
        bytes.extend_from_slice(place);
        rest = &rest[at + PLACE.len()..];
        found = true;
    }
    bytes.extend_from_slice(rest);
    found.then(|| OsString::from_vec(bytes))
}

/// Serves until an end is over. The first signal unmounts, the next one does not wait for users.
fn follow(proxy: &Proxy, mount: &Mounted<'_>, signals: &Signals) -> Ended {
    let mut seen = 0;
    loop {
        if let Some(ended) = proxy.wait(SLICE) {
            return ended;
        }
        let count = signals.count();
        if count > seen {
            match seen {
                0 => mountpoint::detach(mount.at),
                _ => mountpoint::abort(mount.at),
            }
            seen = count;
        }
    }
}

/// Waits for the end of a server whose connection is over.
fn end(mut process: Child) -> String {
    let group = Pid::from_raw(process.id() as i32);
    let ended = ended_within(&mut process, watch::LINGER);
    // It, or what it left behind in its group; a child has to be waited for to be gone from it.
    let ending = std::thread::spawn(move || watch::end_group(group));
    let status = ended.map_or_else(|| process.wait(), Ok);
    let _ = ending.join();
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// A mount that is gone when this is.
struct Mounted<'a> {
    at: &'a Path,
    number: String,
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Whatever else is there by now is not ours.
        if mountpoint::is_mounted(self.at, &self.number) {
            mountpoint::abort(self.at);
        }
    }
}

/// SIGINT, SIGTERM and SIGHUP, counted.
struct Signals(Arc<AtomicUsize>);

impl Signals {
    fn catch() -> anyhow::Result<Signals> {
        let count = Arc::<AtomicUsize>::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let mut all = signal_hook::iterator::Signals::new([signal]).context("catch signals")?;
            let count = Arc::clone(&count);
            std::thread::Builder::new().name("gate-signals".to_owned()).spawn(move || {
                for _ in all.forever() {
                    count.fetch_add(1, Ordering::AcqRel);
                }
            })?;
        }
        Ok(Signals(count))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}
