//! ioctls as programs call them.
#![allow(unsafe_code)] // ioctl(2)

mod common;

use common::{Place, can_mount, ok, pattern};
use inflight_gate::{Action, Client, Phase, Rule};
use nix::errno::Errno;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

const GETVERSION: u64 = 0x8008_7601;
const GETFSLABEL: u64 = 0x8100_9431;
const SETFSLABEL: u64 = 0x4100_9432;
const SHUTDOWN: u64 = 0x8004_587d;

fn ioctl<T>(file: &File, command: u64, argument: &mut T) -> Result<i32, Errno> {
    // SAFETY: `argument` is at least as large as what each of these commands reads or writes.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), command, std::ptr::from_mut(argument)) })
}

#[test]
fn a_version_is_an_int() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let mount = place.mount("", &[]);
    let file = File::create(mount.path("f")).expect("create");
    let mut room = [0xaa_u8; 8];
    ioctl(&file, GETVERSION, &mut room).expect("FS_IOC_GETVERSION");
    assert_ne!(room[..4], [0xaa; 4], "the generation");
    assert_eq!(room[4..], [0xaa; 4], "callers have room for an int");
    let shown = std::process::Command::new("lsattr").arg("-v").arg(mount.path("f")).output();
    assert!(shown.expect("e2fsprogs").status.success(), "lsattr -v");
    drop(file);
    mount.umount();
}

// > FS_IOC_SHUTDOWN is a power cut: what was not synced is gone, and nothing works until the image is mounted again.
#[test]
fn shutdown_is_a_power_cut() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let mount = place.mount("", &[]);
    fs::write(mount.path("synced"), pattern(10_000, 1)).expect("write");
    File::open(&mount.dir).and_then(|d| d.sync_all()).expect("sync");
    fs::write(mount.path("lost"), b"x").expect("write");
    let dir = File::open(&mount.dir).expect("open");
    ioctl(&dir, SHUTDOWN, &mut 2_u32).expect("FS_IOC_SHUTDOWN");
    assert!(File::create(mount.path("after")).is_err(), "nothing works any more");
    drop(dir);
    mount.umount();
    ok(&["fsck", place.image()]);
    let mount = place.mount("", &[]);
    assert!(fs::read(mount.path("synced")).expect("read") == pattern(10_000, 1));
    assert!(!mount.path("lost").exists());
    mount.umount();
}

#[test]
fn a_label_that_is_not_durable_is_an_error_for_everybody() {
    if !can_mount() {
        return;
    }
    let outer = Place::new(128);
    let socket = outer.dir.path().join("gate");
    let below = outer.mount("", &["--gate", socket.to_str().expect("path")]);
    let mut inner = Place::empty();
    inner.image = below.path("inner.img");
    ok(&["mkfs", "--size", "32M", inner.image()]);
    let mount = inner.mount("", &[]);
    let file = File::create(mount.path("f")).expect("create");
    file.sync_all().expect("sync");
    let (dir, mut label) = (File::open(&mount.dir).expect("open"), [0_u8; 256]);
    label[..4].copy_from_slice(b"good");
    ioctl(&dir, SETFSLABEL, &mut label).expect("FS_IOC_SETFSLABEL");
    label.fill(0);
    ioctl(&dir, GETFSLABEL, &mut label).expect("FS_IOC_GETFSLABEL");
    assert!(label.starts_with(b"good\0"));

    let mut gate = Client::connect(&socket).expect("the gate");
    let fail =
        Rule::at(Phase::Received).op("fsync,fdatasync").action(Action::Fail(libc::EIO)).count(1);
    let rule = gate.park(fail).expect("a rule");
    file.write_all_at(b"x", 0).expect("write");
    assert_eq!(ioctl(&dir, SETFSLABEL, &mut label), Err(Errno::EIO));
    gate.unpark(rule).expect("unpark");
    // What that flush lost may have been this file's.
    assert_eq!(file.sync_all().expect_err("fsync").raw_os_error(), Some(libc::EIO));
    // The inner server may hold its image a moment longer than its mount: no umount that must succeed.
    drop((file, dir, mount, gate, below));
}
