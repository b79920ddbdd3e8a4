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

/// What a file has in the image, whatever the kernel has of it.
fn stored(path: &Path) -> Vec<u8> {
    let file = File::open(path).expect("open");
    file.sync_all().expect("sync");
    // Safe for a file that nobody writes: clean pages go.
    nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .expect("fadvise");
    fs::read(path).expect("read")
}

#[test]
fn torn_writes_and_turned_bits_are_told_to_nobody() {
    if !can_mount() {
        return;
    }
    for options in
        ["transport=dev", "transport=uring", "transport=fuser", "read=direct,write=direct"]
    {
        let place = Place::new(32);
        let socket = place.dir.path().join("gate");
        let socket = socket.to_str().expect("path");
        let mount = place.mount(&format!("{options},nowriteback"), &["--gate", socket]);
        let (old, new) = (vec![b'o'; 8192], vec![b'n'; 8192]);
        for (bytes, kept) in [("512", 512), ("4K", 4096), ("0", 0)] {
            let file = mount.path(&format!("torn-{bytes}"));
            fs::write(&file, &old).expect("write");
            ok(&["fault", socket, "torn", bytes, "--path", "torn-*"]);
            let mut open = File::options().write(true).open(&file).expect("open");
            io::Write::write_all(&mut open, &new).expect("nobody is told");
            drop(open);
            ok(&["fault", socket, "release"]);
            let found = stored(&file);
            let wanted = [&new[..kept], &old[kept..]].concat();
            assert!(found == wanted, "{options}: {bytes} bytes of it were written");
        }
        let flips = |found: &[u8]| -> Vec<(usize, u8)> {
            let bytes = found.iter().zip(&old).enumerate();
            bytes.filter(|(_, (a, b))| a != b).map(|(at, (a, b))| (at, a ^ b)).collect()
        };
        fs::write(mount.path("read"), &old).expect("write");
        stored(&mount.path("read"));
        ok(&["fault", socket, "corrupt", "--op", "read"]);
        assert_eq!(flips(&stored(&mount.path("read"))), [(4096, 1)], "{options}");
        ok(&["fault", socket, "release"]);
        assert_eq!(
            flips(&stored(&mount.path("read"))),
            [],
            "{options}: the image has what was written"
        );
        ok(&["fault", socket, "corrupt", "2", "--op", "write"]);
        fs::write(mount.path("written"), &old).expect("write");
        ok(&["fault", socket, "release"]);
        assert_eq!(flips(&stored(&mount.path("written"))), [(2048, 1), (6144, 1)], "{options}");
        mount.umount();
        ok(&["fsck", place.image()]);
    }
}

#[test]
fn a_bandwidth_makes_requests_wait_for_those_before_them() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let socket = place.dir.path().join("gate");
    let socket = socket.to_str().expect("path");
    let mount = place.mount("nowriteback", &["--gate", socket]);
    ok(&["fault", socket, "bandwidth", "1M", "--op", "write", "--path", "slow"]);
    fs::write(mount.path("slow"), vec![1; 65536]).expect("write");
    fs::write(mount.path("fast"), vec![1; 65536]).expect("write");
    assert!(ok(&["fault", socket, "list"]).contains("bandwidth 1048576"));
    let log = ok(&["gate", socket, "log", "--json"]);
    let records =
        log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let (mut held, mut bytes) = (0, 0);
    for record in records.filter(|record| record["op"] == "write") {
        for hold in record["holds"].as_array().into_iter().flatten() {
            held +=
                hold["released"].as_u64().expect("over") - hold["parked"].as_u64().expect("begun");
            bytes += record["len"].as_u64().expect("bytes");
        }
    }
    // 64 KiB at 1 MiB a second are a sixteenth of one.
    assert!(bytes == 65536 && held >= 62_500_000, "{bytes} bytes were held for {held} ns");
    mount.umount();
}

#[test]
fn rules_of_a_toml_file_are_made_all_or_none() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let socket = place.dir.path().join("gate");
    let socket = socket.to_str().expect("path");
    let mount = place.mount("", &["--gate", socket]);
    let file = place.dir.path().join("rules.toml");
    let load = || inflight(&["fault", socket, "load", file.to_str().expect("path")]);
    let good = "[[rule]]\nfail = \"ENOSPC\"\nop = \"create\"\npath = \"*.log\"\n";
    fs::write(&file, format!("{good}[[rule]]\nshrot = 5\n")).expect("write");
    let wrong = load();
    assert!(text(&wrong.stderr).contains("rules.toml: ") && text(&wrong.stderr).contains("shrot"));
    assert_eq!(ok(&["fault", socket, "list"]), "no rules\n");
    fs::write(&file, good).expect("write");
    assert_eq!(text(&load().stdout), "rule 1\n");
    assert_eq!(errno(File::create(mount.path("a.log"))), Some(libc::ENOSPC));
    File::create(mount.path("a.txt")).expect("another name");
    mount.umount();
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
