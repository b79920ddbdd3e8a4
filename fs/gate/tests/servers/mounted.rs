//! A server behind the gate, which is gone afterwards whatever happens.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use inflight_fuse::mount::Connection;
use inflight_gate::Client;
use nix::mount::{MntFlags, umount2};
use nix::unistd::Pid;

/// Long enough for a busy machine; its end is a failure.
pub const BOUND: Duration = Duration::from_secs(30);

/// Whose server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// libfuse 3, takes /dev/fd/N.
    FuseOverlayfs,
    /// libfuse 2 or 3, and mounts by itself here.
    Bindfs,
}

pub struct Mounted {
    pub gate: Client,
    proxy: Child,
    connection: Connection,
    folder: tempfile::TempDir,
}

/// The content of the file `large`.
pub fn large() -> Vec<u8> {
    (0..3_000_000u32).map(|at| (at / 1000 * 7 + at) as u8).collect()
}

pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inflight-gate"));
    command.stdin(Stdio::null());
    command
}

impl Mounted {
    pub fn new(kind: Kind) -> Mounted {
        let folder = tempfile::Builder::new().prefix("gate.").tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["mnt", "lower", "upper", "work"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("lower/large"), large()).unwrap();
        fs::write(at("lower/small"), b"small").unwrap();
        fs::write(at("lower/small2"), [b'2'; 200]).unwrap();
        let mut command = command();
        command.arg("--socket").arg(at("gate"));
        if kind == Kind::Bindfs {
            command.arg("--intercept");
        }
        command.arg(at("mnt")).arg("--");
        let path = |name: &str| at(name).display().to_string();
        match kind {
            Kind::FuseOverlayfs => {
                let (lower, upper, work) = (path("lower"), path("upper"), path("work"));
                let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
                command.args(["fuse-overlayfs", "-f", "-o", &layers, "{}"])
            }
            Kind::Bindfs => command.args(["bindfs", "-f", &path("lower"), "{}"]),
        };
        let log = File::create(at("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut proxy = command.spawn().unwrap();
        let said = || fs::read_to_string(at("log")).unwrap();
        let is_ready =
            within(BOUND, || said().contains("served by") || proxy.try_wait().unwrap().is_some());
        assert!(
            is_ready && said().contains("served by"),
            "{kind:?} is not served (scripts/setup installs it): {}",
            said()
        );
        let gate = Client::connect(&at("gate")).unwrap();
        let connection = Connection::of_mount(&at("mnt")).unwrap();
        Mounted { gate, proxy, connection, folder }
    }

    pub fn at(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.at().join(name)
    }

    /// Where the server keeps a file that was made through it.
    pub fn behind(&self, name: &str) -> PathBuf {
        let upper = self.folder.path().join("upper").join(name);
        if upper.exists() { upper } else { self.folder.path().join("lower").join(name) }
    }

    pub fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.proxy.id() as i32)
    }

    /// The process of the server: the child of the proxy that is not its watcher.
    pub fn server(&self) -> Pid {
        let children = format!("/proc/{0}/task/{0}/children", self.proxy.id());
        let children = fs::read_to_string(children).unwrap();
        let names = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        let mut pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
        Pid::from_raw(pids.find(|pid| names(pid).trim() != "inflight-gate").unwrap())
    }

    pub fn kill(&mut self) {
        self.proxy.kill().unwrap();
    }

    /// Waits for the proxy's end.
    pub fn wait(&mut self) -> ExitStatus {
        ended(&mut self.proxy, BOUND).expect("the proxy ends")
    }

    /// Unmounts, and sees that all ends well.
    pub fn finish(mut self) {
        let server = self.server();
        assert!(within(BOUND, || umount2(&self.at(), MntFlags::empty()).is_ok()));
        assert!(self.wait().success(), "{}", self.said());
        assert!(is_gone(server));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if is_mounted(&self.at()) {
            // A test failed. Whoever waits gets an error, and nothing stays mounted.
            let _ = self.connection.abort();
            let _ = umount2(&self.at(), MntFlags::MNT_DETACH);
        }
        if ended(&mut self.proxy, BOUND).is_none() {
            let _ = self.proxy.kill();
            let _ = self.proxy.wait();
        }
    }
}

/// Whether it becomes true.
pub fn within(bound: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < bound {
        if is_true() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    is_true()
}

/// How a child ended, if it does.
pub fn ended(child: &mut Child, bound: Duration) -> Option<ExitStatus> {
    let mut status = None;
    within(bound, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status
}

/// Whether there is no such process, or nothing of it but its status.
pub fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

pub fn is_mounted(at: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == at.to_str())
}
