//! Whatever ends a run on real mounts, nothing stays mounted, attached or running.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{inflight, left, race, text, until};

/// A stress run that is under way.
struct Started {
    runner: Child,
    server: Pid,
    /// Where the kernel says what its loop devices lie on.
    devices: Vec<PathBuf>,
}

/// Starts a long stress run and waits until its target is used.
fn started(folder: &Path, target: &str, more: &[&str]) -> Option<Started> {
    let program = inflight()?;
    let mut arguments =
        vec!["run", "ST1:fork", "--time", "60s", "--scratch", ".", "--results", "results"];
    arguments.extend(["--on", target]);
    arguments.extend(more);
    let child = race(folder, &arguments)
        .env("INFLIGHT", program)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut server = None;
    until("a server", || {
        server = server_pid(folder);
        server.is_some()
    });
    // The target is being used: its first file is there.
    until("a mount", || {
        target == "inflight" || left(folder).iter().any(|line| line.contains("/top "))
    });
    let (runner, server, devices) = (child, server?, backing_files(folder));
    assert_eq!(devices.is_empty(), target == "inflight");
    Some(Started { runner, server, devices })
}

/// Those of the loop devices on files below a folder.
fn backing_files(folder: &Path) -> Vec<PathBuf> {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files = devices.map(|device| device.path().join("loop/backing_file"));
    let is_ours = |file: &PathBuf| {
        std::fs::read_to_string(file).is_ok_and(|name| Path::new(&name).starts_with(folder))
    };
    files.filter(is_ours).collect()
}

fn server_pid(folder: &Path) -> Option<Pid> {
    let below = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    let targets = below(folder.to_owned()).flat_map(|entry| below(entry.path()));
    let text = targets
        .filter_map(|mounted| std::fs::read_to_string(mounted.path().join("server.pid")).ok())
        .next()?;
    text.trim().parse().ok().map(Pid::from_raw)
}

fn nothing_is_left(folder: &Path, devices: &[PathBuf]) {
    until("the end of all that was made", || left(folder).is_empty());
    // The file of a device that outlived its mount has a name that is short of where it was mounted.
    let is_lost = |name: String| name.trim() == "/loop";
    until("the end of its loop devices", || {
        !devices.iter().any(|file| std::fs::read_to_string(file).is_ok_and(is_lost))
    });
    let names = std::fs::read_dir(folder).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name == "results"), "{names:?}");
}

#[test]
fn an_interrupt_leaves_nothing_of_a_mount() {
    let folder = tempfile::tempdir().unwrap();
    let Some(Started { mut runner, devices, .. }) = started(folder.path(), "inflight", &[]) else {
        return;
    };
    kill(Pid::from_raw(runner.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(runner.wait().unwrap().code(), Some(130));
    nothing_is_left(folder.path(), &devices);
}

#[test]
fn a_killed_runner_leaves_nothing_of_a_loop_device() {
    let folder = tempfile::tempdir().unwrap();
    let Some(Started { mut runner, devices, .. }) = started(folder.path(), "ext4", &[]) else {
        return;
    };
    kill(Pid::from_raw(runner.id() as i32), Signal::SIGKILL).unwrap();
    assert_eq!(runner.wait().unwrap().code(), None);
    nothing_is_left(folder.path(), &devices);
}

#[test]
fn a_wedged_server_is_a_hang_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(Started { runner, server, devices }) =
        started(folder.path(), "inflight", &["--bound", "10"])
    else {
        return;
    };
    kill(server, Signal::SIGSTOP).unwrap();
    let output = runner.wait_with_output().unwrap();
    // What does not return is a HANG, in the race; a control that cannot be played is BROKEN.
    assert!(matches!(output.status.code(), Some(1 | 3)), "{}", text(&output));
    nothing_is_left(folder.path(), &devices);
}

#[test]
fn a_wedged_server_below_a_loop_device_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(Started { mut runner, server, devices }) = started(folder.path(), "ext4", &[]) else {
        return;
    };
    kill(server, Signal::SIGSTOP).unwrap();
    // ext4 is unmounted first, and has something to write that goes nowhere until the mount below is aborted.
    kill(Pid::from_raw(runner.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(runner.wait().unwrap().code(), Some(130));
    nothing_is_left(folder.path(), &devices);
}
