//! A mount with a guard: whatever happens in a test, the mount goes, within a bound.
#![allow(dead_code)] // every test binary uses a part of it

use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The command under test.
pub const INFLIGHT: &str = env!("CARGO_BIN_EXE_inflight");

/// True when this machine lets us mount. For an ordinary user a test that needs it passes with a line that says so; root can
/// put it right, so for root it fails.
#[track_caller]
pub fn can_mount() -> bool {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root may mount and inspect servers here");
        return false;
    }
    if !Path::new("/dev/fuse").exists() {
        lacking("there is no /dev/fuse; load the module with modprobe fuse");
        return false;
    }
    true
}

/// Something that a test needs is not there: a failure, unless INFLIGHT_MAY_SKIP is set in the environment, where a machine
/// cannot have it.
#[track_caller]
pub fn lacking(what: &str) {
    assert!(
        std::env::var_os("INFLIGHT_MAY_SKIP").is_some(),
        "nothing was tested: {what} (INFLIGHT_MAY_SKIP=1 lets this pass)"
    );
    println!("skipped: {what}");
}

/// Runs `inflight` with these arguments.
pub fn inflight(args: &[&str]) -> Output {
    Command::new(INFLIGHT).args(args).stdin(Stdio::null()).output().expect("inflight runs")
}

/// Runs `inflight`, which must succeed; returns its standard output.
#[track_caller]
pub fn ok(args: &[&str]) -> String {
    let out = inflight(args);
    assert!(out.status.success(), "inflight {args:?}: {}\n{}", out.status, text(&out.stderr));
    text(&out.stdout)
}

/// Unmounts as a user would. Tests run side by side in one process: until a child that one of them starts has become its
/// program, it holds the open files of all, and mounts are busy.
#[track_caller]
pub fn umount(dir: &str) {
    umount_by(dir, || inflight(&["umount", dir]));
}

/// As [`umount`], by another command.
#[track_caller]
pub fn umount_by(dir: &str, mut command: impl FnMut() -> Output) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let out = command();
        let said = text(&out.stderr);
        if out.status.success() {
            return;
        }
        let busy = said.contains("is busy") && std::time::Instant::now() < deadline;
        assert!(busy, "umount of {dir}: {}\n{said}", out.status);
        std::thread::yield_now();
    }
}

/// Puts a copy of the command where an ordinary user can run it. Not with fs::copy: a child that another test starts would
/// hold it open for writing for a moment, and nobody could run it (ETXTBSY).
pub fn copy_command(to: &Path) {
    let status = Command::new("cp").arg(INFLIGHT).arg(to).status().expect("cp");
    assert!(status.success());
}

/// Runs `inflight`, which must fail with `code`; returns what it said, which is one line.
#[track_caller]
pub fn refused(code: i32, args: &[&str]) -> String {
    let out = inflight(args);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "inflight {args:?} said {said:?}");
    assert_eq!(said.trim_end().lines().count(), 1, "one line, not {said:?}");
    said
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder for one test, with an image in it.
pub struct Place {
    pub dir: TempDir,
    pub image: PathBuf,
}

impl Place {
    /// An image of `mib` MiB.
    pub fn new(mib: u64) -> Place {
        let place = Place::empty();
        ok(&["mkfs", "--size", &format!("{mib}M"), place.image()]);
        place
    }

    /// No image yet.
    pub fn empty() -> Place {
        // Not /tmp: that may be a tmpfs, which is no place to learn about disks.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
        let image = dir.path().join("a.img");
        std::fs::create_dir(dir.path().join("m")).expect("a mount point");
        Place { dir, image }
    }

    pub fn image(&self) -> &str {
        self.image.to_str().expect("a readable path")
    }

    /// Mounts the image with `-o options` and more arguments.
    #[track_caller]
    pub fn mount(&self, options: &str, more: &[&str]) -> Mount {
        let dir = self.dir.path().join("m");
        let log = self.dir.path().join("log");
        let options = with_transport(options);
        let mut args = vec!["mount", "--log", log.to_str().expect("path"), "-o", &options];
        args.extend(more);
        args.extend([self.image(), dir.to_str().expect("path")]);
        ok(&args);
        Mount { minor: minor(&dir), dir, log, mounted: true }
    }
}

/// `options`, on the transport that INFLIGHT_TRANSPORT in the environment names: the same tests run on each.
fn with_transport(options: &str) -> String {
    match std::env::var("INFLIGHT_TRANSPORT") {
        Ok(transport) if !options.contains("transport=") => {
            format!("transport={transport},{options}")
        }
        _ => format!("rw,{options}"),
    }
}

/// A mounted filesystem.
pub struct Mount {
    pub dir: PathBuf,
    pub log: PathBuf,
    minor: Option<u64>,
    mounted: bool,
}

impl Mount {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What `inflight stat --json` says.
    pub fn stat(&self) -> Value {
        let out = ok(&["stat", "--json", self.dir.to_str().expect("path")]);
        serde_json::from_str(&out).expect("JSON")
    }

    /// Requests that took a way.
    pub fn reads(&self, way: &str) -> u64 {
        self.stat()["reads"][way]["requests"].as_u64().expect("a counter")
    }

    /// The server's process.
    pub fn server(&self) -> i32 {
        self.stat()["pid"].as_i64().expect("a process") as i32
    }

    /// Unmounts as a user would; the image is clean and unlocked afterwards.
    #[track_caller]
    pub fn umount(mut self) {
        umount(self.dir.to_str().expect("path"));
        self.mounted = false;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        assert!(!log.contains("ERROR") && !log.contains("panicked"), "the server said:\n{log}");
    }

    /// Kills the server without warning and clears the dead mount away.
    pub fn kill(mut self) {
        let server = nix::unistd::Pid::from_raw(self.server());
        nix::sys::signal::kill(server, nix::sys::signal::SIGKILL).expect("kill");
        self.clear();
    }

    /// Aborts the connection through fusectl: every request that hangs ends, and the server with it.
    pub fn abort(&self) {
        if let Some(minor) = self.minor.filter(|_| is_mounted(&self.dir)) {
            abort(minor);
        }
    }

    /// The connection is aborted, which ends every request that still hangs, and with it the
    /// server; only then the mount goes: afterwards its number may be another mount's.
    fn clear(&mut self) {
        self.abort();
        let _ = nix::mount::umount2(&self.dir, nix::mount::MntFlags::MNT_DETACH);
        self.mounted = false;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            self.clear();
        }
    }
}

fn minor(dir: &Path) -> Option<u64> {
    let dev = std::fs::metadata(dir).ok()?.dev();
    Some(nix::sys::stat::minor(dev))
}

/// Whether something is mounted there still: a server that ended took its mount with it, and the
/// number of that mount may be another test's by now.
fn is_mounted(dir: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    table.lines().any(|l| l.split(' ').nth(1).is_some_and(|d| Path::new(d) == dir))
}

fn abort(minor: u64) {
    let fusectl = "/sys/fs/fuse/connections";
    if std::fs::read_dir(fusectl).is_ok_and(|mut d| d.next().is_none()) {
        let flags = nix::mount::MsFlags::empty();
        let _ = nix::mount::mount(None::<&str>, fusectl, Some("fusectl"), flags, None::<&str>);
    }
    if let Ok(mut file) = OpenOptions::new().write(true).open(format!("{fusectl}/{minor}/abort")) {
        let _ = file.write_all(b"1");
    }
}

/// Drops the kernel's caches, so that reads reach the server again.
pub fn drop_caches() {
    nix::unistd::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("root may drop caches");
}

/// Opens for O_DIRECT reading and writing.
pub fn open_direct(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .expect("O_DIRECT open")
}

/// Bytes that depend on their position and on `seed`: no two blocks are equal.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len.div_ceil(8))
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(len)
        .collect()
}
