//! Immutable and append-only files: what is promised is kept, against descriptors and mappings from before too.
#![allow(unsafe_code)] // one mapping

mod common;

use common::{Mount, Place, can_mount, drop_caches, ok, pattern};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

/// Mounts on which files can be frozen.
fn both(f: impl Fn(&Mount)) {
    if !can_mount() {
        return;
    }
    for option in ["open_messages", "open_messages,nowriteback"] {
        let place = Place::new(64);
        let mount = place.mount(option, &[]);
        f(&mount);
        mount.umount();
        ok(&["fsck", place.image()]);
    }
}

fn chattr(flag: &str, path: &Path) -> (bool, String) {
    let out = Command::new("chattr").arg(flag).arg(path).output().expect("e2fsprogs");
    (out.status.success(), common::text(&out.stderr))
}

fn freeze(flag: &str, path: &Path) {
    let (done, said) = chattr(flag, path);
    assert!(done, "chattr {flag}: {said}");
}

/// The file reads as `expected`, at once or as soon as the kernel has dropped its pages.
fn settles(path: &Path, expected: &[u8]) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while fs::read(path).expect("read") != expected {
        assert!(
            std::time::Instant::now() < deadline,
            "{} keeps showing what was refused",
            path.display()
        );
        std::thread::yield_now();
    }
    drop_caches();
    assert!(fs::read(path).expect("read") == expected, "what was refused is in the image");
}

/// Everything about `path` that neither flag lets anybody change.
fn refuses_changes(path: &Path) {
    let before = fs::metadata(path).expect("stat");
    let refused = |what: &str, result: std::io::Result<()>| {
        let e = result.expect_err(what);
        assert_eq!(e.raw_os_error(), Some(libc::EPERM), "{what}: {e}");
    };
    refused("open for writing", File::options().write(true).open(path).map(drop));
    refused("truncate", nix::unistd::truncate(path, 1).map_err(Into::into));
    refused("chmod", fs::set_permissions(path, fs::Permissions::from_mode(0o600)));
    refused("chown", std::os::unix::fs::chown(path, Some(5), None));
    refused("an attribute", xattr::set(path, "user.a", b"x"));
    refused("rename", fs::rename(path, path.with_extension("moved")));
    refused("link", fs::hard_link(path, path.with_extension("linked")));
    refused("unlink", fs::remove_file(path));
    let (old, omit) = (TimeSpec::new(1, 1), TimeSpec::new(0, libc::UTIME_OMIT));
    for (atime, mtime) in [(omit, old), (old, omit), (old, old)] {
        let set = utimensat(AT_FDCWD, path, &atime, &mtime, UtimensatFlags::FollowSymlink);
        refused("back-dating", set.map_err(Into::into));
    }
    let after = fs::metadata(path).expect("stat");
    let seen = |m: &fs::Metadata| (m.mode(), m.uid(), m.size(), m.mtime(), m.mtime_nsec());
    assert_eq!(seen(&before), seen(&after));
}

// > Where the kernel does not ask before it opens a file, `chattr +i` and `+a` of files are refused.
#[test]
fn where_opens_are_not_asked_files_are_not_frozen() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    let mount = place.mount("", &[]);
    let (file, dir) = (mount.path("f"), mount.path("d"));
    fs::write(&file, b"x").expect("write");
    fs::create_dir(&dir).expect("mkdir");
    for flag in ["+i", "+a"] {
        let (done, said) = chattr(flag, &file);
        assert!(!done && said.contains("not supported"), "{said}");
    }
    fs::write(&file, b"y").expect("an ordinary file");
    freeze("+i", &dir);
    assert!(File::create(dir.join("new")).is_err(), "a directory is kept as it is");
    freeze("-i", &dir);
    let log = fs::read_to_string(&mount.log).expect("log");
    assert!(log.contains("open_messages"), "the log names the option: {log}");
    mount.umount();
}

// > An immutable file keeps bytes, attributes and names, against descriptors and mappings from before too.
#[test]
fn an_immutable_file_stays_as_it_is() {
    both(|mount| {
        let path = mount.path("f");
        fs::write(&path, pattern(8192, 1)).expect("write");
        let before = File::options().read(true).write(true).open(&path).expect("open");
        // SAFETY: nobody cuts the file while it is mapped.
        let mut map = unsafe { memmap2::MmapMut::map_mut(&before) }.expect("map");
        before.write_all_at(&pattern(4096, 2), 0).expect("a write before");
        map[4096..].copy_from_slice(&pattern(4096, 3));
        freeze("+i", &path);
        let expected = [pattern(4096, 2), pattern(4096, 3)].concat();
        before.sync_all().expect("all of it was accepted before");
        nix::unistd::syncfs(&before).expect("syncfs");
        refuses_changes(&path);

        map[..9].copy_from_slice(b"by a map!");
        let synced = map.flush();
        let written = before.write_all_at(b"by write(2)", 4096).and_then(|()| before.sync_all());
        assert!(synced.is_err() || written.is_err(), "the loss is reported");
        assert!(before.set_len(0).is_err());
        let punch = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        assert_eq!(nix::fcntl::fallocate(&before, punch, 0, 4096), Err(Errno::EPERM));
        settles(&path, &expected);
        drop((map, before));
        settles(&path, &expected);
        freeze("-i", &path);
        fs::write(&path, b"an ordinary file again").expect("write");
    });
}

// > An append-only file only grows, against descriptors from before too.
#[test]
fn an_append_only_file_only_grows() {
    both(|mount| {
        let path = mount.path("f");
        let mut expected = pattern(10_000, 1);
        fs::write(&path, &expected).expect("write");
        let anywhere = File::options().read(true).write(true).open(&path).expect("open");
        let logger = File::options().append(true).open(&path).expect("open");
        freeze("+a", &path);
        refuses_changes(&path);
        // Times of now may be set; the file system decides what now is.
        let now = TimeSpec::new(0, libc::UTIME_NOW);
        utimensat(AT_FDCWD, &path, &now, &now, UtimensatFlags::FollowSymlink).expect("touch");

        use std::io::Write as _;
        let fresh = File::options().append(true).open(&path).expect("open for appending");
        for (writer, seed) in [(&logger, 2), (&fresh, 3), (&logger, 4)] {
            let more = pattern(5_001, seed);
            (&*writer).write_all(&more).expect("append");
            expected.extend(more);
        }
        logger.sync_all().expect("appended bytes are kept");
        settles(&path, &expected);

        for at in [0, 9_999, 20_000] {
            let written = anywhere.write_all_at(b"changed", at).and_then(|()| anywhere.sync_all());
            written.expect_err("the loss is reported");
            settles(&path, &expected);
        }
        assert!(anywhere.set_len(3).is_err());
        freeze("-a", &path);
        fs::write(&path, b"an ordinary file again").expect("write");
    });
}

#[test]
fn a_mount_of_an_image_with_frozen_files_asks() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    let mount = place.mount("open_messages", &[]);
    fs::write(mount.path("f"), b"x").expect("write");
    freeze("+i", &mount.path("f"));
    mount.umount();
    let mount = place.mount("", &[]);
    refuses_changes(&mount.path("f"));
    fs::write(mount.path("g"), b"x").expect("write");
    freeze("+a", &mount.path("g"));
    refuses_changes(&mount.path("g"));
    mount.umount();
}

#[test]
fn times_that_the_kernel_still_held_are_flushed_after_the_flag() {
    both(|mount| {
        let path = mount.path("f");
        fs::write(&path, b"x").expect("write");
        // The kernel keeps the new ctime; nobody has the file open for writing.
        xattr::set(&path, "user.a", b"1").expect("an attribute");
        fs::rename(&path, mount.path("g")).expect("rename");
        let path = mount.path("g");
        freeze("+i", &path);
        let file = File::open(&path).expect("open");
        file.sync_all().expect("fsync of an immutable file");
        nix::unistd::syncfs(&file).expect("syncfs");
    });
}

#[test]
fn chattr_protects_and_lsattr_shows() {
    both(|mount| {
        let path = mount.path("f");
        fs::write(&path, b"x").expect("write");
        let run = |program: &str, args: &[&str]| {
            let out = Command::new(program).args(args).arg(&path).output().expect("e2fsprogs");
            assert!(out.status.success(), "{program} {args:?}: {}", common::text(&out.stderr));
            common::text(&out.stdout)
        };
        run("chattr", &["+i"]);
        assert!(run("lsattr", &[]).contains('i'));
        let e = fs::remove_file(&path).expect_err("immutable");
        assert_eq!(e.kind(), std::io::ErrorKind::PermissionDenied);
        assert!(File::options().write(true).open(&path).and_then(|f| f.set_len(0)).is_err());
        run("chattr", &["-i", "+aA"]);
        assert!(fs::rename(&path, mount.path("g")).is_err(), "append-only");
        run("chattr", &["-aA"]);
        fs::remove_file(&path).expect("an ordinary file again");
    });
}
