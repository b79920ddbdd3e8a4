//! Who else may touch an image, and what cannot be used as one.

mod common;

use common::{Place, can_mount, inflight, ok, refused, text};
use nix::sys::stat::Mode;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Output};

/// A loop device over a file of 64 MiB; it is detached however the test ends.
struct Loop(String);

impl Loop {
    fn new(place: &Place) -> Loop {
        File::create(&place.image).and_then(|f| f.set_len(64 << 20)).expect("a file");
        let out = Command::new("losetup").args(["-f", "--show", place.image()]).output();
        let out = out.expect("losetup (package mount)");
        assert!(out.status.success(), "no loop device is free: {}", text(&out.stderr));
        Loop(text(&out.stdout).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

#[test]
fn a_device_that_is_written_to_is_nobody_elses() {
    if !can_mount() {
        return;
    }
    let place = Place::empty();
    let device = Loop::new(&place);
    ok(&["mkfs", &device.0]);
    let dir = place.dir.path().join("m");
    let dir = dir.to_str().expect("path");
    ok(&["mount", &device.0, dir]);
    let other = run("mkfs.ext4", &["-q", "-F", &device.0]);
    let swap = run("mkswap", &[&device.0]);
    common::umount(dir);
    assert!(!other.status.success(), "mkfs.ext4 wrote to a mounted device");
    assert!(!swap.status.success(), "mkswap wrote to a mounted device");
    ok(&["fsck", &device.0]);

    // The other way round.
    assert!(run("mkfs.ext4", &["-q", "-F", &device.0]).status.success());
    let mounted = run("mount", &["-t", "ext4", &device.0, dir]);
    assert!(mounted.status.success(), "{}", text(&mounted.stderr));
    let said = [inflight(&["mkfs", "--force", &device.0]), inflight(&["fsck", &device.0])];
    assert!(run("umount", &[dir]).status.success());
    for out in said {
        assert!(!out.status.success() && text(&out.stderr).contains("in use by"), "{out:?}");
    }
    ok(&["mkfs", "--force", &device.0]);
}

/// `inflight` with these arguments must end by itself.
fn ends(args: &[&str]) -> Output {
    let out = run("timeout", &[&["60", common::INFLIGHT], args].concat());
    assert_ne!(out.status.code(), Some(124), "inflight {args:?} waits for ever");
    out
}

#[test]
fn a_fifo_stops_nobody() {
    let place = Place::empty();
    nix::unistd::mkfifo(&place.image, Mode::from_bits_truncate(0o644)).expect("mkfifo");
    let dir = place.dir.path().join("m");
    let dir = dir.to_str().expect("path");
    for args in [
        &["fsck", place.image()][..],
        &["fsck", "--repair", place.image()],
        &["dump", place.image()],
        &["mkfs", "--force", "--size", "16M", place.image()],
        &["mount", place.image(), dir],
    ] {
        let out = ends(args);
        assert!(!out.status.success());
        assert!(text(&out.stderr).contains("neither a regular file nor a block device"), "{out:?}");
    }
}

#[test]
fn a_mount_that_names_a_fifo_stops_nobody() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let fifo = place.dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o644)).expect("mkfifo");
    let foreign = place.dir.path().join("foreign");
    fs::create_dir(&foreign).expect("mkdir");
    for kind in ["fuse", "fuse.inflight"] {
        let guard = Foreign::new(&fifo, &foreign, kind);
        let mount = place.mount("", &[]);
        // What is held is looked for among the mounts.
        assert!(!ends(&["fsck", "--repair", place.image()]).status.success());
        mount.umount();
        assert!(ends(&["mkfs", "--force", place.image()]).status.success());
        // Whether it is taken for one of ours or not.
        ends(&["umount", foreign.to_str().expect("path")]);
        drop(guard);
    }
}

/// A mount that nobody serves, of any type and with any source.
struct Foreign<'a> {
    dir: &'a Path,
    _device: File,
}

impl Foreign<'_> {
    fn new<'a>(source: &Path, dir: &'a Path, kind: &str) -> Foreign<'a> {
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some(source), dir, Some(kind), flags, Some(&data[..])).expect("mount");
        Foreign { dir, _device: device }
    }
}

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.dir, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_log_that_cannot_be_written_is_told_before_anything_is_mounted() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let dir = place.dir.path().join("m");
    let said =
        refused(1, &["mount", "--log", "/nowhere/log", place.image(), dir.to_str().expect("path")]);
    assert!(said.contains("/nowhere/log"), "{said}");
    let table = fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!table.contains(dir.to_str().expect("path")), "a dead mount is left");
    ok(&["fsck", place.image()]);
}
