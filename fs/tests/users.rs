//! What an operation answers depends on who asks.

mod common;

use common::Place;
use inflight::errno::Errno;
use inflight::mounted;
use inflight::ops::{Caller, Fs, Make, SetAttr};
use inflight::options::Options;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1 };
const USER: Caller = Caller { uid: 1000, gid: 1000, pid: 2 };

fn on_an_image(test: impl FnOnce(&Fs)) {
    let place = Place::new(32);
    let options = Options { slabs: 1, ..Options::default() };
    let fs = mounted::open(&place.image, &options).expect("an image");
    test(&fs);
    mounted::close(&fs).expect("close");
    drop(fs);
    common::ok(&["fsck", place.image()]);
}

fn make(fs: &Fs, name: &[u8], mode: u32) -> u64 {
    let mode = libc::S_IFREG | mode;
    let make = Make {
        caller: ROOT,
        parent: 1,
        name,
        mode,
        umask: 0,
        rdev: 0,
        target: None,
        security: &[],
    };
    fs.make(&make).expect("create").ino
}

// > Names of trusted attributes are listed to root alone.
#[test]
fn trusted_names_are_for_root() {
    on_an_image(|fs| {
        let ino = make(fs, b"f", 0o644);
        for name in [&b"trusted.overlay.opaque"[..], b"user.a", b"security.capability"] {
            fs.setxattr(ROOT, ino, name, b"y", 0).expect("set");
        }
        let list = |who| String::from_utf8(fs.listxattr(who, ino).expect("list")).expect("text");
        assert_eq!(list(ROOT), "security.capability\0trusted.overlay.opaque\0user.a\0");
        assert_eq!(list(USER), "security.capability\0user.a\0");
    });
}

/// The modes that ext4 leaves (xfstests generic/683 to 685).
#[test]
fn fallocate_takes_privileges_as_ext4_does() {
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let group = Caller { gid: 0, ..USER };
    on_an_image(|fs| {
        let ino = make(fs, b"f", 0o666);
        for how in [0, punch, libc::FALLOC_FL_ZERO_RANGE] {
            for (who, before, after) in [
                (USER, 0o6666, 0o666),
                (USER, 0o6676, 0o676),
                (USER, 0o6766, 0o766),
                (USER, 0o6777, 0o777),
                (group, 0o6666, 0o2666),
                (group, 0o6676, 0o676),
                (ROOT, 0o6666, 0o6666),
                (ROOT, 0o6777, 0o6777),
            ] {
                let chmod = SetAttr { mode: Some(before), ..SetAttr::default() };
                fs.setattr(ino, &chmod).expect("chmod");
                fs.fallocate(who, ino, how, 0, 65_536).expect("fallocate");
                let mode = fs.getattr(ino).expect("getattr").attr.mode & 0o7777;
                assert_eq!(mode, after, "{who:?} on {before:o}, {how:#x}: {mode:o}");
            }
        }
    });
}

#[test]
fn a_whiteout_that_finds_no_room_leaves_both_names() {
    on_an_image(|fs| {
        // Data takes what it may; names, which may take more, get a part of the rest.
        let big = make(fs, b"big", 0o644);
        let mut size = 32 << 20;
        while size > 4096 {
            let mut at = fs.getattr(big).expect("getattr").attr.size;
            while fs.fallocate(ROOT, big, 0, at, size).is_ok() {
                at += size;
            }
            size /= 2;
        }
        let name = |i: u32| format!("{i:0>200}").into_bytes();
        let mut made = 0;
        let full = loop {
            let name = name(made);
            let (mode, caller) = (libc::S_IFREG | 0o644, ROOT);
            let new = Make {
                caller,
                parent: 1,
                name: &name,
                mode,
                umask: 0,
                rdev: 0,
                target: None,
                security: &[],
            };
            match fs.make(&new) {
                Ok(_) => made += 1,
                Err(e) => break e,
            }
        };
        assert_eq!(full, Errno::ENOSPC);
        // A little room, which the whiteouts use up again.
        (0..64).for_each(|i| fs.unlink(1, &name(i)).expect("unlink"));
        fs.syncfs().expect("sync");
        let mut refused = 0;
        for i in (64..made - 1).step_by(2) {
            let (from, to) = (name(i), name(i + 1));
            let inos = [&from, &to].map(|n| fs.lookup(1, n).expect("there").ino);
            match fs.rename(ROOT, (1, &from), (1, &to), libc::RENAME_WHITEOUT) {
                Ok(()) => assert_eq!(fs.lookup(1, &to).expect("moved").ino, inos[0]),
                Err(e) => {
                    assert_eq!(e, Errno::ENOSPC);
                    let after = [&from, &to].map(|n| fs.lookup(1, n).map(|e| e.ino));
                    assert_eq!(after, inos.map(Ok), "half a rename");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0 && made > 100, "{refused} of {made}");
    });
}

/// The modes that ext4 leaves after a write(2) by somebody who may write and owns nothing here; and what the kernel shows
/// at once is what the image keeps.
// > Writing takes set-user-ID bits and file capabilities away, as on ext4.
#[test]
fn a_write_takes_privileges_as_ext4_does() {
    if !common::can_mount() {
        return;
    }
    for options in ["allow_other", "allow_other,nowriteback"] {
        let place = Place::new(32);
        let mount = place.mount(options, &[]);
        let path = mount.path("f");
        std::fs::write(&path, [1; 8192]).expect("write");
        for (flag, how) in [("notrunc", "buffered"), ("notrunc", "direct")] {
            for (user, group, before, after) in [
                ("1000", "1000", 0o6666, 0o666),
                ("1000", "1000", 0o6676, 0o676),
                ("1000", "1000", 0o6766, 0o766),
                ("1000", "1000", 0o6777, 0o777),
                ("1000", "0", 0o6666, 0o2666),
                ("1000", "0", 0o6676, 0o676),
                ("0", "0", 0o6777, 0o6777),
            ] {
                let mode = std::fs::Permissions::from_mode(before);
                std::fs::set_permissions(&path, mode).expect("chmod");
                let mut dd = Command::new("setpriv");
                dd.args(["--reuid", user, "--regid", group, "--clear-groups", "dd"]);
                dd.args(["if=/dev/zero", "bs=4096", "count=1", "status=none"]);
                dd.arg(format!("of={}", path.display())).arg(format!("conv={flag}"));
                if how == "direct" {
                    dd.arg("oflag=direct");
                }
                assert!(
                    dd.status().expect("util-linux and coreutils").success(),
                    "{how} {before:o}"
                );
                let now = || std::fs::metadata(&path).expect("stat").mode() & 0o7777;
                let what = format!("{options}: {how} write by {user}:{group} on {before:o}");
                assert_eq!(format!("{:o}", now()), format!("{after:o}"), "{what}");
                common::drop_caches();
                assert_eq!(format!("{:o}", now()), format!("{after:o}"), "{what}, in the image");
            }
        }
        mount.umount();
        common::ok(&["fsck", place.image()]);
    }
}
