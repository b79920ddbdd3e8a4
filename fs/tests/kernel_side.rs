//! What the kernel does by itself on a mount, and must be let do.

mod common;

use common::{Place, can_mount, ok, text};
use inflight_gate::{Client, Outcome};
use nix::time::{ClockId, clock_gettime};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[test]
fn symlinks_are_not_followed_when_the_mount_says_so() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let mount = place.mount("nosymfollow,noatime", &[]);
    fs::write(mount.path("f"), b"x").expect("write");
    std::os::unix::fs::symlink("f", mount.path("l")).expect("symlink");
    let e = fs::read(mount.path("l")).expect_err("nosymfollow");
    assert_eq!(e.raw_os_error(), Some(libc::ELOOP));
    assert_eq!(fs::read_link(mount.path("l")).expect("readlink").to_str(), Some("f"));
    mount.umount();
    let mount = place.mount("nosymfollow,symfollow", &[]);
    assert_eq!(fs::read(mount.path("l")).expect("followed"), b"x");
    mount.umount();
}

/// A user's process that holds a file open until it is let go.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The mount of an ordinary user, which goes whatever happens.
struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn the_kernel_flushes_the_times_of_a_users_files() {
    if !can_mount() {
        return;
    }
    let open = fs::metadata("/dev/fuse").expect("stat").permissions().mode() & 0o006 == 0o006;
    if !open || Command::new("fusermount3").arg("-V").output().is_err() {
        common::lacking("ordinary users cannot mount here; scripts/setup lets them");
        return;
    }
    let (uid, gid) = (65534, 65534);
    let home = tempfile::tempdir().expect("a folder");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let command = home.path().join("inflight");
    common::copy_command(&command);
    let (own, dir) = (home.path().join("u"), home.path().join("u/m"));
    fs::create_dir_all(&dir).expect("mkdir");
    for path in [&own, &dir] {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("chown");
    }
    let name = |path: &std::path::Path| path.to_str().expect("path").to_owned();
    let (image, socket) = (name(&own.join("a.img")), name(&own.join("gate")));
    let user = |args: &[&str]| {
        let out = Command::new(&command).args(args).uid(uid).gid(gid).output().expect("runs");
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    };
    user(&["mkfs", "--size", "16M", &image]);
    user(&["mount", "--gate", &socket, &image, &name(&dir)]);
    let guard = Unmount(dir.clone());
    let holder = Command::new("tee")
        .arg(dir.join("f"))
        .uid(uid)
        .gid(gid)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut holder = Holder(holder.expect("tee"));
    let mut echo = BufReader::new(holder.0.stdout.take().expect("a pipe"));
    for line in ["first\n", "second\n", "third\n"] {
        holder.0.stdin.as_mut().expect("a pipe").write_all(line.as_bytes()).expect("write");
        let mut said = String::new();
        echo.read_line(&mut said).expect("a line");
        assert_eq!(said, line);
        // Within one tick of its clock the kernel has no new times to flush.
        let coarse = || clock_gettime(ClockId::CLOCK_REALTIME_COARSE).expect("a clock");
        let tick = coarse();
        while coarse() == tick {
            std::thread::yield_now();
        }
    }
    // The second line was written to the file before the third one was read, and a tick after the file was made.
    nix::unistd::sync();
    // The user's own flush would come with close(2), which is still to come.
    let mut gate = Client::connect(socket.as_ref()).expect("the gate");
    let log = gate.log(0, 1000, Duration::ZERO).expect("the log");
    let flush = log.records.iter().find(|r| r.op == "setattr" && r.uid == 0);
    let flush = flush.unwrap_or_else(|| panic!("no flush by the kernel among {:?}", log.records));
    assert_eq!(flush.outcome, Some(Outcome::Bytes(0)));
    drop((gate, holder));
    user(&["umount", &name(&dir)]);
    drop(guard);
    ok(&["fsck", &image]);
}
