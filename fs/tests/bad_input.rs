//! Bad input gets one line that names the object and the remedy, the exit code of the man page,
//! and nothing changes on disk.

mod common;

use common::{Place, can_mount, ok, refused};
use inflight::image::superblock::SECOND;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

fn bytes(place: &Place) -> Vec<u8> {
    fs::read(&place.image).expect("the image is there")
}

#[test]
fn mkfs_refuses_what_it_cannot_make_and_leaves_nothing_behind() {
    let place = Place::empty();
    let image = place.image();
    assert!(refused(1, &["mkfs", image]).contains("give its size, as in --size 4G"));
    assert!(refused(1, &["mkfs", "--size", "1M", image]).contains("too small"));
    assert!(refused(1, &["mkfs", "--size", "1K", image]).contains("at least 16 MiB"));
    let said = refused(1, &["mkfs", "--size", "16777217", image]);
    assert!(said.contains("not a multiple of 4096") && said.contains("16777216"), "{said}");
    let label = "x".repeat(64);
    assert!(
        refused(1, &["mkfs", "--size", "16M", "--label", &label, image]).contains("at most 63")
    );
    assert!(!place.image.exists(), "no file is left of what was not made");
    assert!(
        refused(1, &["mkfs", "--size", "16M", "/nowhere/a.img"]).contains("no directory /nowhere")
    );
}

/// Whoever is told that something is missing can go on from there: each command says what the path is, and what to do.
#[test]
fn an_image_that_is_not_there_is_told_with_the_remedy() {
    let place = Place::empty();
    let (image, dir) = (place.image(), place.dir.path().to_str().expect("path"));
    let out = place.dir.path().join("out");
    let out = out.to_str().expect("path");
    for (code, args) in [
        (1, vec!["mount", image, dir, "--force"]),
        (8, vec!["fsck", image]),
        (1, vec!["dump", image]),
        (1, vec!["export", image, "/", out]),
        (1, vec!["label", image]),
        (1, vec!["resize", image, "32M"]),
    ] {
        let said = refused(code, &args);
        assert!(said.contains(&format!("inflight mkfs --size 4G {image} makes")), "{said}");
        assert!(said.contains(&format!("inflight list {dir} shows")), "{said}");
        assert_eq!(said.matches("No such file").count(), 1, "{said}");
    }
    assert!(refused(8, &["fsck", dir]).contains(&format!("inflight list {dir} shows")));
    let away = format!("{dir}/away/a.img");
    assert!(refused(1, &["dump", &away]).contains(&format!("no directory {dir}/away")));
    assert!(refused(1, &["dump", "LABEL=x"]).contains("inflight list --find LABEL=x DIRECTORY"));
    std::os::unix::fs::symlink("gone", &place.image).expect("link");
    assert!(refused(1, &["dump", image]).contains("a link to gone, which is not there"));
}

/// An ordinary user is told which right is lacking, and that a mount is another user's, not that it is busy.
#[test]
fn who_may_not_is_told_so() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let command = place.dir.path().join("inflight");
    common::copy_command(&command);
    let said = |args: &[&str]| {
        let out = Command::new(&command).args(args).uid(65534).gid(65534).output().expect("runs");
        assert!(!out.status.success(), "{args:?}: {}", common::text(&out.stdout));
        common::text(&out.stderr)
    };
    let (image, mode) = (place.image(), |mode| fs::Permissions::from_mode(mode));
    fs::set_permissions(&place.image, mode(0o600)).expect("chmod");
    let closed = said(&["fsck", image]);
    assert!(closed.contains("belongs to user 0 and its mode is 600"), "{closed}");
    fs::set_permissions(&place.image, mode(0o644)).expect("chmod");
    let readable = said(&["label", image, "new"]);
    assert!(readable.contains("you may read it and not write it"), "{readable}");
    let other = place.dir.path().join("b.img");
    let other = said(&["mkfs", "--size", "16M", other.to_str().expect("path")]);
    assert!(other.contains("you may not make files in"), "{other}");

    let mount = place.mount("", &[]);
    let dir = mount.dir.to_str().expect("path");
    let taken = said(&["umount", dir]);
    assert!(taken.contains("you may not") && !taken.contains("busy"), "{taken}");
    mount.umount();
}

#[test]
fn mkfs_asks_before_it_overwrites() {
    let place = Place::new(16);
    let before = bytes(&place);
    let said = refused(1, &["mkfs", "--size", "16M", place.image()]);
    assert!(said.contains("holds an Inflight filesystem") && said.contains("--force"), "{said}");
    assert!(bytes(&place) == before);
    ok(&["mkfs", "--size", "16M", "--force", "--label", "again", place.image()]);
    assert!(bytes(&place) != before);
}

#[test]
fn mount_names_what_is_wrong_with_the_image() {
    if !can_mount() {
        return;
    }
    let place = Place::empty();
    let dir = place.dir.path().join("m");
    let dir = dir.to_str().expect("path");
    let image = place.image();
    assert!(refused(1, &["mount", image, dir]).contains("a.img: No such file"));
    fs::write(&place.image, b"short").expect("write");
    assert!(refused(1, &["mount", image, dir]).contains("make one with inflight mkfs"));
    File::create(&place.image).and_then(|f| f.set_len(1 << 24)).expect("zeros");
    assert!(refused(1, &["mount", image, dir]).contains("not an Inflight image"));
    ok(&["mkfs", "--size", "16M", "--force", image]);
    assert!(
        refused(1, &["mount", "-o", "writebak", image, dir]).contains("did you mean 'writeback'")
    );
    assert!(refused(1, &["mount", image, "/nowhere"]).contains("mount point /nowhere"));
    let file = place.dir.path().join("file");
    fs::write(&file, b"").expect("write");
    let said = refused(1, &["mount", image, file.to_str().expect("path")]);
    assert!(said.contains("is not a directory"), "{said}");
    File::options().write(true).open(image).and_then(|f| f.set_len(8 << 20)).expect("cut");
    let before = bytes(&place);
    let said = refused(1, &["mount", image, dir]);
    assert!(said.contains("8388608 bytes") && said.contains("16777216"), "{said}");
    assert!(bytes(&place) == before);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let file = OpenOptions::new().read(true).write(true).open(&place.image).expect("open");
    for at in [0, SECOND * 4096] {
        let mut block = [0; 4096];
        file.read_exact_at(&mut block, at).expect("read");
        block[8] = 9;
        let crc = crc32c::crc32c(&block[..4092]);
        block[4092..].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&block, at).expect("write");
    }
    let before = bytes(&place);
    let dir = place.dir.path().join("m");
    let said = refused(1, &["mount", place.image(), dir.to_str().expect("path")]);
    assert!(said.contains("format version 9") && said.contains("newer inflight"), "{said}");
    assert!(bytes(&place) == before);
}

#[test]
fn a_damaged_superblock_costs_nothing_because_there_are_two() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let mount = place.mount("", &[]);
    fs::write(mount.path("f"), b"here").expect("write");
    mount.umount();
    let file = OpenOptions::new().write(true).open(&place.image).expect("open");
    file.write_all_at(&[0xff; 512], 100).expect("damage");
    let dir = place.dir.path().join("m");
    let out = common::inflight(&["mount", place.image(), dir.to_str().expect("path")]);
    let said = common::text(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert!(said.contains("second copy is used"), "{said}");
    assert_eq!(fs::read(dir.join("f")).expect("read"), b"here");
    common::umount(dir.to_str().expect("path"));
}

// > While an image is mounted, another mount, mkfs or repair is refused with the holder's name; fsck and dump see its
// last commit.
#[test]
fn a_mounted_image_is_nobody_elses() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let mount = place.mount("", &[]);
    let other = tempfile::tempdir().expect("a folder");
    let dir = other.path().to_str().expect("path");
    let holder = format!("process {}", mount.server());
    for args in
        [vec!["mount", place.image(), dir], vec!["mkfs", "--size", "16M", "--force", place.image()]]
    {
        let said = refused(1, &args);
        assert!(said.contains("in use by") && said.contains(&holder), "{said}");
        assert!(said.contains(mount.dir.to_str().expect("path")), "{said}");
    }
    assert!(refused(8, &["fsck", "--repair", place.image()]).contains(&holder));
    assert!(ok(&["fsck", place.image()]).contains("its last commit: clean"));
    assert!(ok(&["dump", place.image(), "/"]).contains("this is its last commit"));
    assert!(refused(1, &["umount", dir]).contains("not an Inflight mount point"));
    mount.umount();
    ok(&["fsck", place.image()]);
}

#[test]
fn a_busy_mount_is_not_taken_away() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let mount = place.mount("", &[]);
    let file = File::create(mount.path("open")).expect("create");
    let said = refused(1, &["umount", mount.dir.to_str().expect("path")]);
    assert!(said.contains("busy") && said.contains("--lazy"), "{said}");
    drop(file);
    mount.umount();
}

#[test]
fn usage_errors_have_the_codes_of_their_man_pages() {
    assert_eq!(common::inflight(&["fsck"]).status.code(), Some(16));
    assert_eq!(common::inflight(&["mkfs"]).status.code(), Some(2));
    assert_eq!(common::inflight(&["nonsense"]).status.code(), Some(2));
    assert_eq!(common::inflight(&["--help"]).status.code(), Some(0));
}
