//! Options that people know from other filesystems: auto_unmount, discard, fsname.

mod common;

use common::{INFLIGHT, Place, can_mount, inflight, ok, refused, text};
use nix::sys::signal::{SIGKILL, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Looks until it is so, within a bound.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn mounts_on(dir: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let on = |line: &&str| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == dir);
    table.lines().filter(on).map(str::to_owned).collect()
}

fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("children"));
    let all: Vec<String> = tasks.filter_map(|task| of(task).ok()).collect();
    all.iter().flat_map(|text| text.split_whitespace()).filter_map(|n| n.parse().ok()).collect()
}

#[test]
fn with_auto_unmount_a_dead_server_leaves_no_mount() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let dir = place.dir.path().join("m");
    let mount = place.mount("auto_unmount", &[]);
    let server = mount.server();
    fs::write(mount.path("f"), b"kept").expect("write");
    File::open(mount.path("f")).expect("open").sync_all().expect("fsync");
    let undertaker = children(server);
    assert_eq!(undertaker.len(), 1, "one that waits");
    kill(Pid::from_raw(server), SIGKILL).expect("kill");
    until("the mount goes", || mounts_on(&dir).is_empty());
    drop(mount);
    // Nor does one that came back after a power cut, as another mount.
    let socket = place.dir.path().join("gate");
    let socket = socket.to_str().expect("path");
    let mount = place.mount("auto_unmount,fsname=scratch", &["--gate", socket]);
    ok(&["fault", socket, "power-cut", "--remount"]);
    let server = mount.server();
    kill(Pid::from_raw(server), SIGKILL).expect("kill");
    until("the second mount goes", || mounts_on(&dir).is_empty());
    drop(mount);
    // Without, it stays.
    let mount = place.mount("", &[]);
    let server = mount.server();
    kill(Pid::from_raw(server), SIGKILL).expect("kill");
    until("the server goes", || fs::read_link(format!("/proc/{server}/exe")).is_err());
    assert_eq!(mounts_on(&dir).len(), 1);
    drop(mount);
    let mount = place.mount("fsname=scratch", &[]);
    kill(Pid::from_raw(mount.server()), SIGKILL).expect("kill");
    until("it answers no more", || nix::sys::statvfs::statvfs(&dir).is_err());
    common::umount(dir.to_str().expect("path"));
    assert!(mounts_on(&dir).is_empty());
    drop(mount);
    // An end like any other leaves neither of them.
    let mount = place.mount("auto_unmount", &[]);
    let undertaker = children(mount.server());
    assert_eq!(fs::read(mount.path("f")).expect("read"), b"kept");
    mount.umount();
    until("both end", || undertaker.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    ok(&["fsck", place.image()]);
}

#[test]
fn with_discard_the_image_takes_no_more_room_than_its_files() {
    if !can_mount() {
        return;
    }
    let place = Place::new(128);
    let room = || fs::metadata(&place.image).expect("stat").blocks() * 512;
    for (option, gives_back) in [("discard", true), ("discard,nodiscard", false)] {
        let mount = place.mount(option, &[]);
        let sync = || File::open(&mount.dir).expect("open").sync_all().expect("fsync");
        let before = room();
        fs::write(mount.path("large"), common::pattern(40 << 20, 1)).expect("write");
        sync();
        let full = room();
        assert!(full > before + (39 << 20), "{before} {full}");
        fs::remove_file(mount.path("large")).expect("remove");
        // The kernel forgets it when it likes, and the blocks are free only then.
        let is_free = || {
            mount.stat()["space"]["waiting"] == 0 && {
                let free = mount.stat()["space"]["free"].as_u64().expect("a number");
                free > (110 << 20) / 4096
            }
        };
        until("it is free", || {
            sync();
            is_free()
        });
        match gives_back {
            true => until("room is given back", || {
                sync();
                room() < before + (2 << 20)
            }),
            false => assert!(room() > full - (4 << 20), "{full}, now {}", room()),
        }
        fs::write(mount.path("small"), b"content").expect("write");
        mount.umount();
        ok(&["fsck", place.image()]);
    }
}

#[test]
fn a_mount_with_another_name_is_found_by_image_and_directory() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let image = place.image();
    let mount = place.mount("fsname=scratch", &[]);
    let dir = mount.dir.to_str().expect("path").to_owned();
    assert!(mounts_on(&mount.dir)[0].starts_with("scratch "), "{:?}", mounts_on(&mount.dir));
    let listed = ok(&["list", image]);
    assert!(listed.contains(&format!("mounted  {image} on {dir}")), "{listed}");
    assert!(refused(1, &["mkfs", "--force", image]).contains(&format!("mounted on {dir}")));
    ok(&["resize", &dir, "48M"]);
    ok(&["label", &dir, "x"]);
    assert!(ok(&["fsck", image]).contains("its last commit: clean"));
    mount.umount();
    ok(&["fsck", image]);
    let at = place.dir.path().join("m");
    let args = ["mount", "-o", "fsname=/dev/sda", image, at.to_str().expect("path")];
    assert!(refused(1, &args).contains("a name without '/'"));
}

#[test]
fn an_image_that_is_named_by_a_link_is_found_by_its_own_name() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let link = place.dir.path().join("link");
    std::os::unix::fs::symlink(&place.image, &link).expect("symlink");
    let dir = place.dir.path().join("m");
    let dir = dir.to_str().expect("path");
    ok(&["mount", link.to_str().expect("path"), dir]);
    let said = ok(&["fsck", place.image()]);
    common::umount(dir);
    assert!(said.contains(&format!("mounted on {dir}")), "{said}");
}

/// What mount(8) is told in a unit is what it is told in fstab: the files that come with the program are right, and work.
#[test]
fn units_of_systemd_are_verified() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/systemd");
    let files: Vec<_> = fs::read_dir(&units)
        .expect("scripts/systemd")
        .map(|entry| entry.expect("a file").path())
        .collect();
    assert!(files.len() >= 2, "{files:?}");
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        common::lacking("systemd-analyze (package systemd)");
        return;
    }
    let out = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&files).output();
    let out = out.expect("systemd-analyze");
    let said = common::text(&out.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("inflight")).collect();
    assert!(out.status.success() && ours.is_empty(), "{}: {said}", out.status);
    for file in files {
        let text = fs::read_to_string(&file).expect("a unit");
        if let Some(options) = text.lines().find_map(|line| line.strip_prefix("Options=")) {
            let missing = inflight(&["mount", "--force", "-o", options, "/nowhere/image", "/"]);
            let said = common::text(&missing.stderr);
            assert!(said.contains("/nowhere/image"), "{}: {said}", file.display());
        }
    }
}

/// All descriptors of the image that process `pid` has, here too: its lock is ours then as well.
fn descriptors_of(pid: i32, image: &str) -> Vec<File> {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let process = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let process = process.expect("pidfd_open(2)");
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten();
    let of_image = entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == *image));
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let taken = of_image.filter_map(number).map(|fd| {
        let got = pidfd_getfd(&process, fd, PidfdGetfdFlags::empty());
        File::from(got.expect("pidfd_getfd(2)"))
    });
    taken.collect()
}

/// Who unmounts at a terminal sees that the server is not done yet, and how much of the image is still to be written.
#[test]
fn umount_shows_a_terminal_what_is_left() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let mount = place.mount("", &[]);
    fs::write(mount.path("f"), [7; 1 << 20]).expect("write");
    let (dir, server) = (mount.dir.display().to_string(), mount.server());
    // Killed, it does not let go of its lock itself.
    let held = descriptors_of(server, place.image());
    kill(Pid::from_raw(server), SIGKILL).expect("kill");
    until("the server ends", || !Path::new(&format!("/proc/{server}")).exists());
    // Busy for a moment when another test starts a program.
    let command = format!("until {INFLIGHT} umount {dir}; do :; done");
    let mut umount = Command::new("timeout")
        .args(["60", "script", "-q", "-e", "-c", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script (package bsdutils)");
    // The last block, with what it holds already: pages to be written for as long as somebody looks.
    let image = File::options().read(true).write(true).open(place.image()).expect("open");
    let (at, mut block) = (15 << 20, [0; 4096]);
    image.read_exact_at(&mut block, at).expect("read");
    let out = umount.stdout.as_mut().expect("a pipe");
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    while !text(&said).contains("KiB are to be written") {
        image.write_all_at(&block, at).expect("write");
        let count = out.read(&mut piece).expect("read");
        assert!(count > 0, "it ended without a word: {}", text(&said));
        said.extend_from_slice(&piece[..count]);
    }
    assert!(text(&said).contains("the server finishes"), "{}", text(&said));
    drop(held);
    assert!(umount.wait().expect("wait").success());
    assert!(mounts_on(Path::new(&dir)).is_empty());
    ok(&["fsck", place.image()]);
}
