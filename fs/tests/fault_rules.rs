//! `inflight fault` on real mounts: who is meant, how what is lost comes to an end, and power cuts of mounts of every kind.

mod common;

use common::{Place, can_mount, inflight, ok, text};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// The error of making a file in a process of this name.
fn touch(path: &Path) -> Option<String> {
    let out = Command::new("touch").arg(path).env("LC_ALL", "C").output().expect("touch");
    (!out.status.success()).then(|| text(&out.stderr))
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

#[test]
fn only_who_is_named_is_meant() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let socket = place.dir.path().join("gate");
    let socket = socket.to_str().expect("path");
    let mount = place.mount("", &["--gate", socket]);
    let us = std::process::id().to_string();
    ok(&["fault", socket, "fail", "EDQUOT", "--op", "create", "--pid", &us]);
    assert_eq!(errno(File::create(mount.path("ours"))), Some(libc::EDQUOT));
    assert_eq!(touch(&mount.path("theirs")), None);
    ok(&["fault", socket, "release"]);
    ok(&["fault", socket, "fail", "EIO", "--op", "create", "--comm", "touch", "--path", "log.*"]);
    File::create(mount.path("log.1")).expect("not touch");
    assert_eq!(touch(&mount.path("other")), None);
    assert!(touch(&mount.path("log.2")).is_some_and(|said| said.contains("Input/output error")));
    // A temporary file that takes the name of another one is that one from then on.
    ok(&["fault", socket, "fail", "EROFS", "--op", "setattr", "--path", "/final"]);
    fs::write(mount.path("temporary"), "x").expect("write");
    let shrink =
        |name| File::options().write(true).open(mount.path(name)).and_then(|f| f.set_len(0));
    shrink("temporary").expect("it has another name");
    fs::rename(mount.path("temporary"), mount.path("final")).expect("rename");
    assert_eq!(errno(shrink("final")), Some(libc::EROFS));
    let wrong = inflight(&["fault", socket, "fail", "EWRONG"]);
    assert!(text(&wrong.stderr).contains("unknown errno 'EWRONG'; nearest:"));
    mount.umount();
}

#[test]
fn who_waits_for_what_was_dropped_is_let_go() {
    if !can_mount() {
        return;
    }
    for transport in ["dev", "uring"] {
        let place = Place::new(32);
        let socket = place.dir.path().join("gate");
        let socket = socket.to_str().expect("path");
        let mount = place.mount(&format!("transport={transport}"), &["--gate", socket]);
        ok(&["fault", socket, "drop", "--op", "create", "--path", "lost"]);
        let child = Command::new("touch").arg(mount.path("lost")).stderr(Stdio::null()).spawn();
        let mut child = child.expect("touch");
        // It is dropped as soon as it is shown.
        while !ok(&["gate", socket, "list"]).contains("create") {
            assert!(child.try_wait().expect("wait").is_none(), "it ended by itself");
        }
        ok(&["fault", socket, "release"]);
        assert!(!child.wait().expect("wait").success());
        assert_eq!(touch(&mount.path("lost")), None);
        mount.umount();
        ok(&["fsck", place.image()]);
    }
}

#[test]
fn power_cuts_lose_what_was_not_synced() {
    if !can_mount() {
        return;
    }
    for options in ["rw", "power_cut", "transport=uring,power_cut", "transport=fuser"] {
        let place = Place::new(32);
        let socket = place.dir.path().join("gate");
        let socket = socket.to_str().expect("path");
        let mount = place.mount(options, &["--gate", socket]);
        fs::write(mount.path("kept"), "synced").expect("write");
        File::open(mount.path("kept")).and_then(|file| file.sync_all()).expect("sync");
        fs::write(mount.path("lost"), "not synced").expect("write");
        let open = File::open(mount.path("kept")).expect("open");
        let said = ok(&["fault", socket, "power-cut", "--remount"]);
        assert!(said.ends_with("mounted again\n"), "{options}: {said}");
        assert!(open.metadata().is_err() || open.sync_all().is_err(), "{options}: it went on");
        drop(open);
        assert_eq!(fs::read(mount.path("kept")).expect("read"), b"synced", "{options}");
        assert!(!mount.path("lost").exists(), "{options}");
        fs::write(mount.path("after"), "x").expect("it works again");
        // The number of the connection is another one now.
        common::umount(mount.dir.to_str().expect("path"));
        ok(&["fsck", place.image()]);
    }
}
