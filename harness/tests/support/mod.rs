//! What the tests of the command share: the program in a folder of its own, bounded waits, and what a run left.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod console;
pub mod toy_kernel;

use inflight_race::kit::pause::Pause;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use inflight_race::target::programs;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_inflight-race");

/// Longest that anything here may take; its end fails the test.
pub const BOUND: Duration = Duration::from_secs(120);

/// What a program said, for messages.
pub fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}\n{}\n{}", output.status, String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// The program in a folder.
pub fn race(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(folder);
    command
}

/// Says why a test does nothing, also when it passes: what `eprintln` prints would be captured.
#[expect(clippy::explicit_write)]
pub fn skip(why: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "skipped: {why}").unwrap();
}

/// Something that a test needs is not there: a failure, unless INFLIGHT_MAY_SKIP is set in the environment, where a machine
/// cannot have it.
#[track_caller]
pub fn lacking(what: &str) {
    assert!(
        std::env::var_os("INFLIGHT_MAY_SKIP").is_some(),
        "nothing was tested: {what} (INFLIGHT_MAY_SKIP=1 lets this pass)"
    );
    skip(what);
}

/// Whether this is root; says so if not.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// The `inflight` program where this machine can mount it: beside the test, as root, with /dev/fuse.
///
/// # Panics
/// When it could be mounted and was not built: a test that did not run is no success.
pub fn inflight() -> Option<PathBuf> {
    if !is_root() {
        return None;
    }
    if !Path::new("/dev/fuse").exists() {
        skip("needs /dev/fuse");
        return None;
    }
    let found = programs::inflight();
    Some(
        found.expect(
            "`inflight` beside the test: cargo build -p inflight, or cargo test --workspace",
        ),
    )
}

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + BOUND;
    let mut pause = Pause::default();
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not happen in {BOUND:?}");
        pause.rest();
    }
}

/// Mounts, loop devices and processes that have to do with a folder.
pub fn left(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut left: Vec<String> =
        mounts.lines().filter(|line| line.contains(folder)).map(str::to_owned).collect();
    for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file"));
        left.extend(backing.ok().filter(|file| file.contains(folder)));
    }
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(folder) {
            left.push(line);
        }
    }
    left
}

/// Unmounts a folder at the end of a test, whatever came of it.
pub struct Unmount(pub PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
