//! What only `dev` and `uring` carry from the kernel to the operations, on mounts: files without a name, birth times, copies of
//! more than 4 GiB, who may keep which bits, times before 1970.
//!
//! Not sent to this mount, whatever the server says: SYNCFS (plain mounts are written back and not asked), security contexts (a
//! kernel without a security module that labels), supplementary groups (not asked for: the VFS has stripped set-group-ID from the
//! mode before). What comes of each is tested all the same.

mod common;

use common::{Mount, Place, can_mount, ok, pattern};
use nix::fcntl::{AT_FDCWD, AtFlags, copy_file_range};
use std::fs::{self, File, FileTimes};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Runs `test` on a mount over each transport, and looks at what is there after the next mount.
fn on_each(options: &str, test: impl Fn(&Mount), afterwards: impl Fn(&Mount)) {
    if !can_mount() {
        return;
    }
    for transport in ["dev", "uring"] {
        let place = Place::new(64);
        let options = format!("transport={transport},{options}");
        let mount = place.mount(&options, &[]);
        let serves = mount.stat()["transport"].to_string();
        assert!(serves.contains(transport), "{serves}");
        test(&mount);
        mount.umount();
        ok(&["fsck", place.image()]);
        let mount = place.mount(&options, &[]);
        afterwards(&mount);
        mount.umount();
    }
}

/// Requests of a kind so far.
fn count(mount: &Mount, op: &str) -> u64 {
    mount.stat()["operations"][op]["count"].as_u64().unwrap_or(0)
}

#[test]
fn a_file_without_a_name_gets_one_or_is_gone() {
    let unnamed = |mount: &Mount| {
        let mut options = File::options();
        options.read(true).write(true).mode(0o640).custom_flags(libc::O_TMPFILE);
        options.open(&mount.dir).expect("O_TMPFILE")
    };
    let test = |mount: &Mount| {
        let (kept, gone) = (unnamed(mount), unnamed(mount));
        for file in [&kept, &gone] {
            file.write_all_at(&pattern(100_000, 1), 0).expect("write");
            assert_eq!(file.metadata().expect("stat").nlink(), 0);
        }
        let path = format!("/proc/self/fd/{}", kept.as_raw_fd());
        let follow = AtFlags::AT_SYMLINK_FOLLOW;
        let named = mount.path("named");
        nix::unistd::linkat(AT_FDCWD, &*path, AT_FDCWD, &named, follow).expect("linkat");
        assert_eq!(count(mount, "tmpfile"), 2);
    };
    on_each("rw", test, |mount| {
        let names: Vec<_> = fs::read_dir(&mount.dir).expect("readdir").collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let found = fs::metadata(mount.path("named")).expect("stat");
        assert_eq!((found.nlink(), found.mode() & 0o7777), (1, 0o640));
        assert!(fs::read(mount.path("named")).expect("read") == pattern(100_000, 1));
    });
}

#[test]
fn the_birth_time_is_that_of_creation_and_stays() {
    let written = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(9));
    let test = |mount: &Mount| {
        let before = SystemTime::now();
        let file = File::create_new(mount.path("f")).expect("create");
        let born = file.metadata().and_then(|found| found.created()).expect("a birth time");
        // The clock of files is the tick's: it may be behind by one.
        let tick = Duration::from_millis(20);
        assert!(born + tick >= before && born <= SystemTime::now(), "{born:?}");
        file.set_times(written).expect("set_times");
        fs::write(mount.path("born"), stamp(born)).expect("write");
        assert!(count(mount, "statx") > 0);
    };
    on_each("rw", test, |mount| {
        let found = fs::metadata(mount.path("f")).expect("stat");
        assert_eq!(found.mtime(), 9);
        let born = found.created().expect("a birth time");
        assert_eq!(fs::read_to_string(mount.path("born")).expect("read"), stamp(born));
    });
}

/// Seconds and nanoseconds.
fn stamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
}

#[test]
fn a_copy_of_more_than_4_gib_is_sparse_and_complete() {
    const LEN: u64 = 5 << 30;
    const ISLANDS: [u64; 4] = [0, 1 << 30, (1 << 32) - 5_000, LEN - 70_000];
    let test = |mount: &Mount| {
        let from = File::create_new(mount.path("from")).expect("create");
        let to = File::create_new(mount.path("to")).expect("create");
        from.set_len(LEN).expect("set_len");
        for at in ISLANDS {
            from.write_all_at(&pattern(70_000, at), at).expect("write");
        }
        let from = File::open(mount.path("from")).expect("open");
        let (mut at, mut written, mut largest) = (0, 0, 0);
        while (at as u64) < LEN {
            let rest = (LEN - at as u64) as usize;
            let copied = copy_file_range(&from, Some(&mut at), &to, Some(&mut written), rest);
            let copied = copied.expect("copy_file_range");
            assert!(copied > 0, "nothing was copied at {at}");
            largest = largest.max(copied);
        }
        let (old, new) = (count(mount, "copy_file_range"), count(mount, "copy_file_range_64"));
        assert!(old + new > 0, "the kernel copied by itself");
        assert!(new == 0 || largest as u64 > u32::MAX.into(), "{new} copies, {largest} at most");
    };
    on_each("rw", test, |mount| {
        let file = File::open(mount.path("to")).expect("open");
        let found = file.metadata().expect("stat");
        assert_eq!(found.len(), LEN);
        assert!(found.blocks() * 512 <= 1 << 20, "{} blocks", found.blocks());
        for at in ISLANDS {
            let mut bytes = vec![0; 70_000];
            file.read_exact_at(&mut bytes, at).expect("read");
            assert!(bytes == pattern(70_000, at), "the island at {at}");
        }
    });
}

/// Runs a line of sh(1) in the mount as a user with a group of their own and one more.
fn as_user(mount: &Mount, more_group: u32, line: &str) {
    let groups = more_group.to_string();
    // The folder is entered as root: what is above it is nobody's business.
    let user = ["--reuid=65534", "--regid=65534", "--groups", &groups, "sh", "-c", line];
    let out = Command::new("setpriv").args(user).current_dir(&mount.dir).output();
    let out = out.expect("setpriv runs");
    assert!(out.status.success(), "{line}: {}", common::text(&out.stderr));
}

fn mode(mount: &Mount, name: &str) -> u32 {
    fs::metadata(mount.path(name)).expect("stat").mode() & 0o7777
}

#[test]
fn a_users_change_takes_set_user_id_away() {
    for options in ["allow_other,writeback", "allow_other,nowriteback"] {
        let lines = [
            ("written", "echo more >>written"),
            ("cut", "truncate -s 1 cut"),
            ("replaced", "echo new >replaced"),
        ];
        let test = |mount: &Mount| {
            for (name, line) in lines {
                fs::write(mount.path(name), b"something").expect("write");
                fs::set_permissions(mount.path(name), fs::Permissions::from_mode(0o6777))
                    .expect("chmod");
                as_user(mount, 65534, line);
                assert_eq!(mode(mount, name), 0o777, "{name}, {options}");
            }
            fs::write(mount.path("roots"), b"something").expect("write");
            let all = fs::Permissions::from_mode(0o6777);
            fs::set_permissions(mount.path("roots"), all).expect("chmod");
            fs::write(mount.path("roots"), b"more").expect("write");
            assert_eq!(mode(mount, "roots"), 0o6777, "root keeps them, {options}");
        };
        on_each(options, test, |mount| {
            assert!(lines.iter().all(|(name, _)| mode(mount, name) == 0o777));
            assert_eq!(mode(mount, "roots"), 0o6777);
        });
    }
}

#[test]
fn who_is_in_the_folders_group_may_make_set_group_id_files() {
    const GROUP: u32 = 4321;
    let test = |mount: &Mount| {
        let dir = mount.path("d");
        fs::create_dir(&dir).expect("mkdir");
        std::os::unix::fs::chown(&dir, None, Some(GROUP)).expect("chown");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o2777)).expect("chmod");
        let make =
            |name| format!("umask 0; touch d/{name} && chmod 2775 d/{name}; mkdir d/{name}d");
        as_user(mount, GROUP, &make("member"));
        as_user(mount, GROUP + 1, &make("stranger"));
    };
    on_each("allow_other", test, |mount| {
        for (name, bits) in [("member", 0o2775), ("stranger", 0o775)] {
            let found = fs::metadata(mount.path("d").join(name)).expect("stat");
            assert_eq!((found.gid(), found.mode() & 0o7777), (GROUP, bits), "{name}");
            let below = fs::metadata(mount.path("d").join(format!("{name}d"))).expect("stat");
            assert_eq!((below.gid(), below.mode() & 0o7777), (GROUP, 0o2777), "{name}");
        }
    });
}

#[test]
fn times_before_1970_keep_their_fractions() {
    let times = [
        (Duration::new(1, 0), (-1, 0)),
        (Duration::new(0, 1), (-1, 999_999_999)),
        (Duration::new(12_345_678, 250_000_001), (-12_345_679, 749_999_999)),
        (Duration::new(5_000_000_000, 1), (-5_000_000_001, 999_999_999)),
    ];
    let check = |mount: &Mount| {
        for (number, (_, right)) in times.iter().enumerate() {
            let found = fs::metadata(mount.path(&format!("f{number}"))).expect("stat");
            assert_eq!((found.mtime(), found.mtime_nsec()), *right);
            assert_eq!((found.atime(), found.atime_nsec()), *right);
        }
    };
    let test = |mount: &Mount| {
        for (number, (before, _)) in times.iter().enumerate() {
            let time = SystemTime::UNIX_EPOCH - *before;
            let file = File::create_new(mount.path(&format!("f{number}"))).expect("create");
            let both = FileTimes::new().set_modified(time).set_accessed(time);
            file.set_times(both).expect("set_times");
        }
        check(mount);
    };
    on_each("noatime", test, check);
}

#[test]
fn syncfs_leaves_nothing_in_the_kernel() {
    let test = |mount: &Mount| {
        fs::write(mount.path("f"), pattern(1 << 20, 5)).expect("write");
        let root = File::open(&mount.dir).expect("open");
        nix::unistd::syncfs(&root).expect("syncfs");
        let stat = mount.stat();
        let written = |way: &str| stat["writes"][way]["bytes"].as_u64().expect("a count");
        assert_eq!(written("buffered") + written("direct"), 1 << 20);
    };
    on_each("rw", test, |mount| {
        assert!(fs::read(mount.path("f")).expect("read") == pattern(1 << 20, 5));
    });
}
