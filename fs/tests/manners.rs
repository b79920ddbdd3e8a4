//! How the commands behave in scripts and pipelines, and when they are interrupted.

mod common;

use common::{INFLIGHT, Place, can_mount, inflight, ok, refused, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

#[test]
fn nobody_panics_when_nobody_reads() {
    let place = Place::new(16);
    let image = place.image();
    let mut lines: Vec<String> = ["dump", "dump --json", "fsck", "fsck --json", "mkfs --force"]
        .map(|command| format!("{command} {image}"))
        .into();
    lines.extend(
        ["--help", "mkfs --help", "completions bash", "manual", "--version"].map(str::to_owned),
    );
    let socket = place.dir.path().join("gate");
    let mount = can_mount().then(|| {
        let other = Place::new(16);
        let mount = other.mount("", &["--gate", socket.to_str().expect("path")]);
        let (dir, socket) = (mount.dir.display().to_string(), socket.display().to_string());
        lines.extend(["stat", "stat --json", "stat --watch"].map(|c| format!("{c} {dir}")));
        lines.extend(["list", "list --json", "log"].map(|c| format!("gate {socket} {c}")));
        lines.extend([format!("fault {socket} list"), format!("list --json {dir}")]);
        (mount, other)
    });
    for line in lines {
        // The reader is gone before the first byte, which is what `| head -c0` may come to.
        for redirect in ["", "2>&1"] {
            let script = format!("set -o pipefail; timeout 60 {INFLIGHT} {line} {redirect} | true");
            let out = Command::new("bash").args(["-c", &script]).output().expect("bash");
            assert_eq!(out.status.code(), Some(0), "{line} {redirect}: {}", text(&out.stderr));
            let script = format!("{INFLIGHT} {line} {redirect} | head -c1");
            let out = Command::new("bash").args(["-c", &script]).output().expect("bash");
            assert!(!text(&out.stderr).contains("panicked"), "{line}: {}", text(&out.stderr));
        }
    }
    if let Some((mount, _other)) = mount {
        mount.umount();
    }
}

/// Holds the lock of an image as a server does that still writes.
fn hold(place: &Place) -> nix::fcntl::Flock<File> {
    let file = File::open(&place.image).expect("open");
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).expect("flock")
}

#[test]
fn without_patience_nobody_waits() {
    let place = Place::new(16);
    let held = hold(&place);
    let us = format!("process {}", std::process::id());
    let dir = place.dir.path().join("m");
    assert!(refused(8, &["fsck", "--no-wait", place.image()]).contains(&us));
    assert!(refused(1, &["mkfs", "--force", "--no-wait", place.image()]).contains(&us));
    assert!(refused(1, &["dump", "--no-wait", place.image()]).contains(&us));
    if can_mount() {
        let args = ["mount", "--no-wait", place.image(), dir.to_str().expect("path")];
        assert!(refused(1, &args).contains(&us));
    }
    drop(held);
    ok(&["fsck", "--no-wait", place.image()]);
}

#[test]
fn who_waits_says_for_whom() {
    let place = Place::new(16);
    let held = hold(&place);
    // script(1) gives it a terminal.
    let line = format!("{INFLIGHT} fsck {}", place.image());
    let mut waits = Command::new("script")
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script (package bsdutils)");
    let mut out = BufReader::new(waits.stdout.take().expect("a pipe"));
    let mut said = String::new();
    out.read_line(&mut said).expect("a line");
    let us = format!("in use by process {}", std::process::id());
    assert!(said.contains(&us) && said.contains("waiting up to 120 s"), "{said}");
    drop(held);
    std::io::copy(&mut out, &mut std::io::sink()).expect("the rest");
    assert!(waits.wait().expect("wait").success());
}

#[test]
fn an_interrupted_mount_does_not_happen_later() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let held = hold(&place);
    let dir = place.dir.path().join("m");
    let mut parent = Command::new(INFLIGHT)
        .args(["mount", place.image()])
        .arg(&dir)
        .stdin(Stdio::null())
        .spawn()
        .expect("inflight runs");
    let pid = parent.id();
    let children =
        || fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let opened = |child: &str| {
        let fds = fs::read_dir(format!("/proc/{child}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|path| path == place.image)
    };
    // Until the server waits for the image.
    let server = loop {
        if let Some(child) = children().split_whitespace().next().filter(|child| opened(child)) {
            break child.to_owned();
        }
        std::thread::yield_now();
    };
    kill(Pid::from_raw(pid as i32), Signal::SIGINT).expect("kill");
    parent.wait().expect("wait");
    // A process that nobody reaps stays as a zombie, which has no files.
    while opened(&server) {
        std::thread::yield_now();
    }
    drop(held);
    ok(&["fsck", "--no-wait", place.image()]);
    let table = fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!table.contains(dir.to_str().expect("path")));
}

#[test]
fn a_dead_mount_is_cleared_away() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    for clear in [true, false] {
        let mount = place.mount("", &[]);
        let server = Pid::from_raw(mount.server());
        fs::write(mount.path("f"), b"x").expect("write");
        kill(server, Signal::SIGKILL).expect("kill");
        // The kernel may know the attributes still; the state of the filesystem is always asked.
        while nix::sys::statvfs::statvfs(&mount.dir).is_ok() {
            std::thread::yield_now();
        }
        if clear {
            common::umount(mount.dir.to_str().expect("path"));
        }
        let again = place.mount("", &[]);
        let table = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let dir = mount.dir.to_str().expect("path");
        assert_eq!(table.lines().filter(|l| l.contains(dir)).count(), 1, "{table}");
        again.umount();
    }
}

#[test]
fn what_would_be_hidden_is_asked_about() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let dir = place.dir.path().join("m");
    fs::write(dir.join("precious"), b"x").expect("write");
    let dir = dir.to_str().expect("path");
    let said = refused(1, &["mount", place.image(), dir]);
    assert!(said.contains("not empty") && said.contains("--force"), "{said}");
    assert!(refused(1, &["mount", place.image(), "/"]).contains("--force"));
    ok(&["mount", "--force", place.image(), dir]);
    common::umount(dir);
    fs::read(place.dir.path().join("m/precious")).expect("still there");
}

/// A copy of the command under the name by which mount(8), mkfs(8) or fsck(8) call it, as it is installed.
fn helper(place: &Place, name: &str) -> PathBuf {
    let path = place.dir.path().join(name);
    common::copy_command(&path);
    path
}

fn run(program: &PathBuf, args: &[&str]) -> Output {
    Command::new(program).args(args).output().expect("the helper runs")
}

#[test]
fn helpers_do_what_mkfs8_and_fsck8_ask() {
    let place = Place::empty();
    let (mkfs, fsck) = (helper(&place, "mkfs.fuse.inflight"), helper(&place, "fsck.fuse.inflight"));
    let made = run(&mkfs, &["-L", "name", "-s", "16.5Mi", place.image()]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert_eq!(fs::metadata(&place.image).expect("stat").len(), 33 << 19);
    assert!(inflight(&["dump", place.image()]).stdout.windows(4).any(|w| w == b"name"));
    for args in [&["-a", "-C0"][..], &["-p"], &["-n", "-f"], &["-y", "-T"]] {
        let out = run(&fsck, &[args, &[place.image()]].concat());
        assert_eq!(out.status.code(), Some(0), "{args:?}: {}", text(&out.stderr));
    }
    fs::write(&place.image, b"nothing").expect("write");
    assert_eq!(run(&fsck, &["-a", place.image()]).status.code(), Some(8));
    assert_eq!(run(&fsck, &[]).status.code(), Some(16));
}

#[test]
fn mount8_can_remount_and_is_told_failures_its_way() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let helper = helper(&place, "mount.fuse.inflight");
    let dir = place.dir.path().join("m");
    let dir = dir.to_str().expect("path");
    let mount = |options: &str| run(&helper, &[place.image(), dir, "-o", options]);
    assert_eq!(mount("nonsense").status.code(), Some(32));
    assert!(mount("rw").status.success());
    let guard = Unmount(dir.to_owned());
    let options = || {
        let table = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let line = table.lines().find(|l| l.split(' ').nth(1) == Some(dir)).expect("mounted");
        line.split(' ').nth(3).expect("options").to_owned()
    };
    // As mount(8) merges them with what mountinfo says.
    let kept = "user_id=0,group_id=0,default_permissions";
    assert!(mount(&format!("remount,ro,noexec,{kept}")).status.success());
    assert!(options().starts_with("ro,") && options().contains("noexec"), "{}", options());
    assert!(fs::write(format!("{dir}/f"), b"x").is_err());
    let out = mount(&format!("rw,remount,{kept}"));
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(options().starts_with("rw,") && !options().contains("noexec"), "{}", options());
    fs::write(format!("{dir}/f"), b"x").expect("writable again");
    // A power cut right after the remount.
    assert!(mount(&format!("remount,ro,{kept}")).status.success());
    let stat = ok(&["stat", "--json", dir]);
    let stat: serde_json::Value = serde_json::from_str(&stat).expect("JSON");
    let server = nix::unistd::Pid::from_raw(stat["pid"].as_i64().expect("a process") as i32);
    nix::sys::signal::kill(server, nix::sys::signal::SIGKILL).expect("kill");
    nix::mount::umount2(dir, nix::mount::MntFlags::MNT_DETACH).expect("a dead mount");
    assert!(mount("rw").status.success());
    assert_eq!(fs::read(format!("{dir}/f")).expect("remounting read-only flushed it"), b"x");
    common::umount(dir);
    assert!(mount("ro").status.success());
    let out = mount("remount,rw");
    assert_eq!(out.status.code(), Some(32));
    assert!(text(&out.stderr).contains("mounted read-only"), "{}", text(&out.stderr));
    common::umount(dir);
    drop(guard);
}

struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0[..], nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_log_has_no_colours() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    // script(1) gives it a terminal, which the server lets go of.
    let (log, dir) = (place.dir.path().join("log"), place.dir.path().join("m"));
    let line =
        format!("{INFLIGHT} -v mount --log {} {} {}", log.display(), place.image(), dir.display());
    let out = Command::new("script").args(["-q", "-e", "-c", &line, "/dev/null"]).output();
    assert!(out.expect("script").status.success());
    let report = ok(&["stat", "--json", dir.to_str().expect("path")]);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let server = Pid::from_raw(report["pid"].as_i64().expect("a process") as i32);
    kill(server, Signal::SIGTERM).expect("kill");
    while nix::fcntl::Flock::lock(
        File::open(&place.image).expect("open"),
        nix::fcntl::FlockArg::LockExclusive,
    )
    .is_err()
    {}
    let said = fs::read_to_string(&log).expect("log");
    assert!(said.contains("SIGTERM") && !said.contains('\x1b'), "{said:?}");
}
