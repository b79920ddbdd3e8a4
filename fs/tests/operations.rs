//! What an application sees of the operations, on a mount.

mod common;

use common::{Place, can_mount, drop_caches, ok, pattern};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::Command;

/// Two modes of the kernel's write cache: both must behave alike.
fn both(f: impl Fn(&Place, &common::Mount)) {
    if !can_mount() {
        return;
    }
    for option in ["writeback", "nowriteback"] {
        let place = Place::new(64);
        let mount = place.mount(option, &[]);
        f(&place, &mount);
        mount.umount();
        ok(&["fsck", place.image()]);
    }
}

// > Bytes that were cut off never come back: where the file grows again, it reads as zeros.
#[test]
fn truncated_data_never_comes_back() {
    both(|_, mount| {
        let file = File::create(mount.path("f")).expect("create");
        file.write_all_at(&pattern(10_000, 1), 0).expect("write");
        file.sync_all().expect("sync");
        file.set_len(5_000).expect("cut");
        file.set_len(12_000).expect("grow");
        drop_caches();
        let bytes = fs::read(mount.path("f")).expect("read");
        assert_eq!(bytes[..5_000], pattern(10_000, 1)[..5_000]);
        assert!(bytes[5_000..].iter().all(|b| *b == 0), "old data shows up beyond the cut");
        file.set_len(100).expect("cut");
        file.write_all_at(b"end", 9_000).expect("write beyond the end");
        drop_caches();
        let bytes = fs::read(mount.path("f")).expect("read");
        assert!(bytes[100..9_000].iter().all(|b| *b == 0));
        assert_eq!(&bytes[9_000..], b"end");
    });
}

// > A listing that goes on while names come and go has every name that was there all the time exactly once.
#[test]
fn a_listing_survives_changes_between_two_calls() {
    both(|_, mount| {
        for i in 0..2_000 {
            File::create(mount.path(&format!("n{i}"))).expect("create");
        }
        let mut listing = fs::read_dir(&mount.dir).expect("open");
        let mut seen = BTreeSet::new();
        for (at, entry) in listing.by_ref().enumerate() {
            let name = entry.expect("an entry").file_name().into_string().expect("a name");
            assert!(seen.insert(name), "an entry twice");
            if at % 10 == 0 && at < 1_000 {
                let _ = fs::remove_file(mount.path(&format!("n{}", 1_999 - at)));
                File::create(mount.path(&format!("new{at}"))).expect("create");
            }
        }
        for i in 0..1_000 {
            assert!(seen.contains(&format!("n{i}")), "n{i} was there all the time");
        }
    });
}

// > SEEK_DATA and SEEK_HOLE tell data from holes to the block, and bytes that are not written back yet are data.
#[test]
fn holes_and_data_are_where_they_were_put() {
    both(|_, mount| {
        let file = File::create(mount.path("f")).expect("create");
        file.set_len(1 << 40).expect("a sparse file");
        file.write_all_at(&[7; 8192], 1 << 30).expect("write");
        file.sync_all().expect("sync");
        let seek = |from, whence| nix::unistd::lseek(&file, from, whence);
        use nix::unistd::Whence::{SeekData, SeekHole};
        assert_eq!(seek(0, SeekData), Ok(1 << 30));
        assert_eq!(seek(1 << 30, SeekHole), Ok((1 << 30) + 8192));
        assert_eq!(seek((1 << 30) + 8192, SeekData), Err(nix::errno::Errno::ENXIO));
        assert_eq!(file.metadata().expect("stat").blocks(), 16);
        file.set_len(i64::MAX as u64).expect("the largest size");
        assert_eq!(file.metadata().expect("stat").len(), i64::MAX as u64);
    });
}

// > SEEK_DATA and SEEK_HOLE tell data from holes to the block, and bytes that are not written back yet are data.
#[test]
fn data_that_is_not_written_back_yet_is_data() {
    both(|_, mount| {
        use nix::unistd::Whence::{SeekData, SeekHole};
        let file = File::create(mount.path("f")).expect("create");
        // More of them at once than the server has threads.
        std::thread::scope(|scope| {
            for i in 0..16 {
                let path = mount.path(&format!("f{i}"));
                scope.spawn(move || {
                    let file = File::create(path).expect("create");
                    file.write_all_at(&pattern(100_000, i), 50_000).expect("write");
                    let seek = |from, whence| nix::unistd::lseek(&file, from, whence);
                    assert_eq!(seek(0, SeekData), Ok(49_152));
                    assert_eq!(seek(49_152, SeekHole), Ok(150_000));
                });
            }
        });
        file.write_all_at(b"x", 0).expect("write");
        assert_eq!(nix::unistd::lseek(&file, 0, SeekData), Ok(0));
    });
}

// > A POSIX ACL and the permission bits that it implies change together, and new files inherit the default ACL of their
// directory.
#[test]
fn attributes_and_acls_are_kept_and_inherited() {
    both(|place, mount| {
        let path = mount.path("f");
        fs::write(&path, b"x").expect("write");
        xattr::set(&path, "user.a", &[9; 60_000]).expect("set");
        assert_eq!(xattr::get(&path, "user.a").expect("get").map(|v| v.len()), Some(60_000));
        assert_eq!(xattr::list(&path).expect("list").count(), 1);
        assert!(xattr::set(&path, "user.b", &[9; 70_000]).is_err());
        let acl = |args: &[&str]| {
            let out = Command::new(args[0]).args(&args[1..]).current_dir(&mount.dir).output();
            common::text(&out.expect("the acl package").stdout)
        };
        fs::create_dir(mount.path("d")).expect("mkdir");
        acl(&["setfacl", "-m", "d:u:12:rwx,d:m:rwx", "d"]);
        fs::write(mount.path("d/child"), b"x").expect("write");
        let shown = acl(&["getfacl", "-n", "-c", "d/child"]);
        assert!(shown.contains("user:12:rwx") && shown.contains("mask::rw-"), "{shown}");
        fs::set_permissions(
            mount.path("d/child"),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .expect("chmod");
        assert!(acl(&["getfacl", "-n", "-c", "d/child"]).contains("mask::---"));
        let _ = place;
    });
}

// > Writing takes set-user-ID bits and file capabilities away, as on ext4.
#[test]
fn writing_takes_privileges_away() {
    both(|_, mount| {
        let path = mount.path("f");
        fs::write(&path, b"x").expect("write");
        xattr::set(&path, "security.capability", &hex()).expect("a capability");
        fs::write(&path, b"y").expect("write");
        File::open(&path).and_then(|f| f.sync_all()).expect("sync");
        assert_eq!(xattr::get(&path, "security.capability").expect("get"), None);
    });
}

/// cap_net_raw=ep as setcap(8) stores it (linux/capability.h, VFS_CAP_REVISION_2).
fn hex() -> Vec<u8> {
    [0x0200_0001u32, 0x2000, 0, 0, 0].iter().flat_map(|w| w.to_le_bytes()).collect()
}

// > rename(2) replaces, swaps or refuses as renameat2(2) says, and never makes a loop.
#[test]
fn rename_swaps_and_refuses_as_asked() {
    both(|_, mount| {
        use nix::fcntl::{RenameFlags, renameat2};
        let (a, b) = (mount.path("a"), mount.path("b"));
        fs::write(&a, b"a").expect("write");
        fs::create_dir(&b).expect("mkdir");
        let cwd = nix::fcntl::AT_FDCWD;
        let e = renameat2(cwd, &a, cwd, &b, RenameFlags::RENAME_NOREPLACE);
        assert_eq!(e, Err(nix::errno::Errno::EEXIST));
        renameat2(cwd, &a, cwd, &b, RenameFlags::RENAME_EXCHANGE).expect("swap");
        assert!(a.is_dir() && fs::read(&b).expect("read") == b"a");
        assert_eq!(fs::metadata(&mount.dir).expect("stat").nlink(), 3);
        let e = fs::rename(&a, a.join("below")).expect_err("a loop");
        assert_eq!(e.raw_os_error(), Some(libc::EINVAL));
    });
}

#[test]
fn trim_gives_free_space_back_and_data_stays() {
    both(|place, mount| {
        fs::write(mount.path("big"), pattern(20 << 20, 4)).expect("write");
        fs::write(mount.path("kept"), pattern(1 << 20, 5)).expect("write");
        File::open(mount.path("kept")).and_then(|f| f.sync_all()).expect("sync");
        let used = || fs::metadata(&place.image).expect("stat").blocks();
        let before = used();
        fs::remove_file(mount.path("big")).expect("remove");
        let out = Command::new("fstrim").arg(&mount.dir).output().expect("util-linux");
        assert!(out.status.success(), "{}", common::text(&out.stderr));
        assert!(used() + (15 << 11) < before, "{before} sectors before, {} after", used());
        drop_caches();
        assert!(fs::read(mount.path("kept")).expect("read") == pattern(1 << 20, 5));
    });
}

// > Times before 1970 and after 2038 are kept.
#[test]
fn times_before_1970_and_after_2038_survive() {
    both(|_, mount| {
        let path = mount.path("f");
        fs::write(&path, b"x").expect("write");
        let c = |secs| nix::sys::time::TimeSpec::new(secs, 0);
        nix::sys::stat::utimensat(
            nix::fcntl::AT_FDCWD,
            &path,
            &c(-86_400),
            &nix::sys::time::TimeSpec::new(5_000_000_000, 123_456_789),
            nix::sys::stat::UtimensatFlags::FollowSymlink,
        )
        .expect("utimensat");
        drop_caches();
        let meta = fs::metadata(&path).expect("stat");
        assert_eq!(meta.atime(), -86_400);
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (5_000_000_000, 123_456_789));
    });
}

#[test]
fn an_append_only_directory_keeps_its_names() {
    both(|_, mount| {
        fs::create_dir(mount.path("d")).expect("mkdir");
        for name in ["d/kept", "other"] {
            fs::write(mount.path(name), name).expect("write");
        }
        let chattr = |flag: &str| {
            let out = Command::new("chattr").arg(flag).arg(mount.path("d")).output();
            assert!(out.expect("e2fsprogs").status.success());
        };
        chattr("+a");
        fs::write(mount.path("d/new"), b"x").expect("new names may be added");
        let e = fs::rename(mount.path("other"), mount.path("d/kept")).expect_err("replaced");
        assert_eq!(e.kind(), ErrorKind::PermissionDenied);
        fs::remove_file(mount.path("d/kept")).expect_err("removed");
        chattr("-a");
        assert_eq!(fs::read(mount.path("d/kept")).expect("read"), b"d/kept");
    });
}

// > Writing takes set-user-ID bits and file capabilities away, as on ext4.
#[test]
fn a_copied_over_program_is_privileged_no_more() {
    both(|_, mount| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(mount.path("from"), pattern(10_000, 1)).expect("write");
        let to = File::create(mount.path("to")).expect("create");
        to.set_permissions(fs::Permissions::from_mode(0o4755)).expect("chmod");
        let from = File::open(mount.path("from")).expect("open");
        from.sync_all().expect("sync");
        nix::fcntl::copy_file_range(&from, None, &to, None, 10_000).expect("copy");
        let mode = fs::metadata(mount.path("to")).expect("stat").mode();
        assert_eq!(mode & 0o7777, 0o755);
    });
}
