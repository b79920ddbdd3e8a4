//! A mount from start to end: who may, how it ends, what is left.

mod common;

use common::{Place, can_mount, inflight, ok, pattern, refused, text, umount_by};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

// > After umount(2) the next user of the image waits until the old server has finished.
#[test]
fn after_umount8_the_next_user_waits_for_the_old_server() {
    if !can_mount() {
        return;
    }
    let place = Place::new(256);
    for round in 0..5 {
        let mount = place.mount("", &[]);
        // Dirty data in the image's page cache makes the server's last commit slow.
        fs::write(mount.path("f"), pattern(64 << 20, round)).expect("write");
        let dir = mount.dir.to_str().expect("a path");
        umount_by(dir, || Command::new("umount").arg(dir).output().expect("umount(8)"));
        match round % 3 {
            0 => drop(ok(&["fsck", place.image()])),
            1 => drop(ok(&["mkfs", "--force", place.image()])),
            _ => place.mount("", &[]).umount(),
        }
    }
}

#[test]
fn a_server_in_the_background_is_a_session_of_its_own() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let mount = place.mount("transport=uring", &[]);
    let server = Pid::from_raw(mount.server());
    assert_eq!(nix::unistd::getsid(Some(server)), Ok(server));
    // Kernels without CONFIG_SCHED_AUTOGROUP have no such file.
    if let Ok(group) = fs::read_to_string(format!("/proc/{server}/autogroup")) {
        let is_root = nix::unistd::geteuid().is_root();
        assert!(group.trim().ends_with(if is_root { "nice -10" } else { "nice 0" }), "{group}");
    }
    mount.umount();
}

#[test]
fn sigterm_unmounts_and_everything_is_there() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mount = place.mount("", &[]);
        let name = format!("{signal}");
        fs::write(mount.path(&name), pattern(1 << 20, 3)).expect("write");
        kill(Pid::from_raw(mount.server()), signal).expect("kill");
        // As long as it is mounted, its last commit is looked at.
        while ok(&["fsck", place.image()]).contains("mounted on") {}
        assert!(fs::read_dir(&mount.dir).expect("the folder below").next().is_none());
        drop(mount);
        let mount = place.mount("", &[]);
        assert!(fs::read(mount.path(&name)).expect("read") == pattern(1 << 20, 3));
        mount.umount();
    }
}

#[test]
fn in_the_foreground_the_command_ends_with_the_mount() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let dir = place.dir.path().join("m");
    let mut server = Command::new(common::INFLIGHT)
        .args(["mount", "--foreground", place.image()])
        .arg(&dir)
        .stdin(Stdio::null())
        .spawn()
        .expect("inflight runs");
    while inflight(&["stat", dir.to_str().expect("path")]).status.code() != Some(0) {
        assert!(server.try_wait().expect("wait").is_none(), "the server ended");
        std::thread::yield_now();
    }
    common::umount(dir.to_str().expect("path"));
    assert!(server.wait().expect("wait").success());
}

#[test]
fn mount8_finds_everything_it_needs_in_the_helper() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let helper = place.dir.path().join("mount.fuse.inflight");
    std::os::unix::fs::symlink(common::INFLIGHT, &helper).expect("symlink");
    let dir = place.dir.path().join("m");
    let run = |options: &str| {
        Command::new(&helper)
            .arg(place.image())
            .arg(&dir)
            .args(["-n", "-o", options])
            .output()
            .expect("the helper runs")
    };
    let out = run("rw,noatime,nodev,x-systemd.automount,allow_other");
    assert!(out.status.success() && out.stdout.is_empty() && out.stderr.is_empty(), "{out:?}");
    let table = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let line = table.lines().find(|l| l.starts_with(place.image())).expect("mounted");
    for word in ["fuse.inflight", "noatime", "nodev", "allow_other", "default_permissions"] {
        assert!(line.contains(word), "{word} in {line}");
    }
    common::umount(dir.to_str().expect("path"));
    assert!(text(&run("nonsense").stderr).contains("unknown mount option 'nonsense'"));
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    if !can_mount() {
        return;
    }
    if Command::new("fusermount3").arg("-V").output().is_err() {
        common::lacking("there is no fusermount3 (package fuse3)");
        return;
    }
    if fs::metadata("/dev/fuse").expect("stat").permissions().mode() & 0o006 != 0o006 {
        common::lacking("/dev/fuse is root's alone here; scripts/setup opens it as udev would");
        return;
    }
    let (uid, gid) = (65534, 65534);
    // The folders above must let the user through; a copy of the command where it can be run.
    let home = tempfile::tempdir().expect("a folder");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let (command, image, dir) =
        (home.path().join("inflight"), home.path().join("u/a.img"), home.path().join("u/m"));
    common::copy_command(&command);
    fs::create_dir_all(&dir).expect("mkdir");
    for path in [home.path().join("u"), dir.clone()] {
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("chown");
    }
    let user = |args: &[&str]| {
        let out = Command::new(&command).args(args).uid(uid).gid(gid).output().expect("runs");
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    };
    let (image, dir_name) = (image.to_str().expect("path"), dir.to_str().expect("path"));
    user(&["mkfs", "--size", "16M", image]);
    user(&["mount", image, dir_name]);
    let script =
        format!("echo hello > {dir_name}/f && cat {dir_name}/f && stat -c %u {dir_name}/f");
    let out = Command::new("sh").args(["-c", &script]).uid(uid).gid(gid).output().expect("sh");
    let unmounted =
        Command::new(&command).args(["umount", dir_name]).uid(uid).gid(gid).output().expect("runs");
    if !unmounted.status.success() {
        let _ = nix::mount::umount2(&dir, nix::mount::MntFlags::MNT_DETACH);
    }
    assert_eq!(text(&out.stdout), "hello\n65534\n", "{}", text(&out.stderr));
    assert!(unmounted.status.success(), "{}", text(&unmounted.stderr));
    ok(&["fsck", image]);
}

// > A read-only mount writes nothing to the image.
#[test]
fn a_read_only_mount_writes_nothing() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let mount = place.mount("", &[]);
    fs::write(mount.path("f"), pattern(1 << 20, 1)).expect("write");
    // A server that was killed leaves work for the next one, which a reader must do in memory.
    let file = File::open(mount.path("f")).expect("open");
    file.sync_all().expect("sync");
    fs::write(mount.path("g"), b"lost").expect("write");
    mount.kill();
    let before = fs::read(&place.image).expect("image");
    let mount = place.mount("ro", &[]);
    assert!(fs::read(mount.path("f")).expect("read") == pattern(1 << 20, 1));
    assert!(fs::write(mount.path("h"), b"x").is_err());
    assert!(fs::remove_file(mount.path("f")).is_err());
    mount.umount();
    assert!(fs::read(&place.image).expect("image") == before, "the image changed");
    ok(&["fsck", place.image()]);
}

#[test]
fn a_block_device_is_an_image_too() {
    if !can_mount() {
        return;
    }
    let place = Place::empty();
    File::create(&place.image).and_then(|f| f.set_len(64 << 20)).expect("a file");
    let out = Command::new("losetup").args(["-f", "--show", place.image()]).output();
    let Some(out) = out.ok().filter(|o| o.status.success()) else {
        common::lacking("no loop device is free");
        return;
    };
    let device = text(&out.stdout).trim().to_owned();
    let detach = Detach(device.clone());
    let dir = place.dir.path().join("m");
    let dir = dir.to_str().expect("path");
    ok(&["mkfs", &device]);
    assert!(refused(1, &["mkfs", "--size", "1G", "--force", &device]).contains("67108864 bytes"));
    ok(&["mount", &device, dir]);
    fs::write(Path::new(dir).join("f"), pattern(5 << 20, 8)).expect("write");
    assert!(refused(1, &["mkfs", "--force", &device]).contains("in use by"));
    common::umount(dir);
    ok(&["fsck", &device]);
    ok(&["mount", "-o", "read=direct", &device, dir]);
    let same = fs::read(Path::new(dir).join("f")).expect("read") == pattern(5 << 20, 8);
    common::umount(dir);
    assert!(same);
    drop(detach);
}

struct Detach(String);

impl Drop for Detach {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn an_image_that_shrinks_under_us_gives_errors_and_nothing_worse() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    let mount = place.mount("nowriteback", &[]);
    fs::write(mount.path("small"), b"small").expect("write");
    fs::write(mount.path("f"), pattern(30 << 20, 1)).expect("write");
    File::open(mount.path("f")).and_then(|f| f.sync_all()).expect("sync");
    common::drop_caches();
    File::options().write(true).open(&place.image).and_then(|f| f.set_len(10 << 20)).expect("cut");
    for option in [0, libc::O_DIRECT] {
        let file =
            std::os::unix::fs::OpenOptionsExt::custom_flags(File::options().read(true), option)
                .open(mount.path("f"))
                .expect("open");
        let mut buf = vec![0; 1 << 20];
        let e = file.read_exact_at(&mut buf, 25 << 20).expect_err("those blocks are gone");
        assert!(matches!(e.raw_os_error(), Some(libc::EIO | libc::EUCLEAN)), "{e}");
    }
    assert_eq!(fs::read(mount.path("small")).expect("what is still there"), b"small");
    File::options().write(true).open(&place.image).and_then(|f| f.set_len(64 << 20)).expect("grow");
    drop(mount);
}

#[test]
fn the_pool_is_pinned_while_mounted_and_not_afterwards() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let mount = place.mount("slabs=4", &[]);
    let stat = mount.stat();
    if stat["pool"]["pin"] != "io_uring" {
        println!("skipped: io_uring is refused here: {}", stat["pool"]["reasons"]);
        return;
    }
    // VmPin counts this process's pages alone; nr_foll_pin_acquired counts everybody's.
    let status = fs::read_to_string(format!("/proc/{}/status", mount.server())).expect("status");
    let line = status.lines().find(|l| l.starts_with("VmPin:")).expect("VmPin");
    // The queues of transport=uring have memory of their own.
    let pinned = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    assert!(pinned.is_some_and(|kib| kib >= 8192), "{line}");
    mount.umount();
}

#[test]
fn queued_requests_are_served_side_by_side() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    let socket = place.dir.path().join("gate");
    // A queue of transport=uring has so many places; the device has no end of them.
    let mount = place.mount("transport=dev", &["--gate", socket.to_str().expect("path")]);
    fs::write(mount.path("f"), pattern(1 << 20, 1)).expect("write");
    let mut gate = inflight_gate::Client::connect(&socket).expect("a gate");
    let rule = inflight_gate::Rule::at(inflight_gate::Phase::Prepared).op("read").path("/f");
    gate.park(rule).expect("a rule");
    std::thread::scope(|scope| {
        for i in 0..32 {
            let file = common::open_direct(&mount.path("f"));
            scope.spawn(move || {
                let mut buf = [0; 4096];
                file.read_exact_at(&mut buf, i * 4096).expect("read");
                assert!(buf[..] == pattern(1 << 20, 1)[i as usize * 4096..][..4096]);
            });
        }
        // More than there are server threads: a parked request holds none.
        gate.wait_parked(None, 32, std::time::Duration::from_secs(60)).expect("all are parked");
        assert!(fs::metadata(mount.path("f")).is_ok(), "the rest of the mount works");
        assert_eq!(mount.stat()["pins"], 32);
        gate.open().expect("open");
    });
    assert_eq!(mount.stat()["pins"], 0);
    mount.umount();
}

// > A block that was freed is given to another file only after the commit that freed it, and after the last read of it that
// was in flight.
//
// > Truncation never waits for a reader, and a reader never sees another file's bytes.
#[test]
fn a_truncated_block_is_nobody_elses_while_a_read_of_it_is_under_way() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let socket = place.dir.path().join("gate");
    let mount = place.mount("nowriteback", &["--gate", socket.to_str().expect("path")]);
    // Larger than the reserve, which stays free: its first blocks are given away before that.
    let old = pattern(6 << 20, 1);
    fs::write(mount.path("f"), &old).expect("write");
    File::open(mount.path("f")).and_then(|f| f.sync_all()).expect("sync");
    let mut gate = inflight_gate::Client::connect(&socket).expect("a gate");
    let rule = inflight_gate::Rule::at(inflight_gate::Phase::Prepared).op("read").path("/f");
    gate.park(rule).expect("a rule");
    let file = common::open_direct(&mount.path("f"));
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; 65_536];
        let n = file.read_at(&mut bytes, 0).expect("read");
        bytes.truncate(n);
        bytes
    });
    gate.wait_parked(None, 1, std::time::Duration::from_secs(60)).expect("parked");
    // The truncation does not wait for the reader, and everything that is free is given away.
    File::options().write(true).open(mount.path("f")).and_then(|f| f.set_len(0)).expect("cut");
    File::open(&mount.dir).and_then(|d| d.sync_all()).expect("commit");
    for i in 0.. {
        let other = mount.path(&format!("other{i}"));
        let full = fs::write(&other, pattern(1 << 20, 1_000 + i)).is_err();
        File::open(&other).and_then(|f| f.sync_all()).expect("sync");
        if full {
            break;
        }
    }
    gate.open().expect("open");
    let got = reader.join().expect("the reader");
    assert!(!got.is_empty(), "the reply was cut to nothing, so nothing is proved");
    assert!(got.iter().all(|b| *b == 0) || got[..] == old[..got.len()], "another file's bytes");
    mount.umount();
    ok(&["fsck", place.image()]);
}
