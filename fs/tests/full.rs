//! A full image: every operation answers, deletes work, nothing is lost.

mod common;

use common::{Place, can_mount, ok, pattern};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

#[test]
fn a_full_image_answers_and_deletes_make_room() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let mount = place.mount("nowriteback", &[]);
    fs::write(mount.path("kept"), pattern(100_000, 7)).expect("there is room");
    let mut full = 0;
    for i in 0..100_000 {
        match fs::write(mount.path(&format!("f{i}")), pattern(20_000, i)) {
            Ok(()) => full = i,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::StorageFull, "{e}");
                break;
            }
        }
    }
    assert!(full > 500, "only {full} files fit");
    // Names need room in the metadata area, which has a reserve; in the end that answers too.
    for i in 0..1_000_000 {
        if let Err(e) = File::create(mount.path(&format!("empty{i}"))) {
            assert_eq!(e.kind(), ErrorKind::StorageFull, "{e}");
            break;
        }
        if i % 1000 == 0 {
            File::open(&mount.dir).and_then(|d| d.sync_all()).expect("sync of a full image");
        }
    }
    assert_eq!(fs::read(mount.path("kept")).expect("read"), pattern(100_000, 7));
    for i in 0..=full {
        fs::remove_file(mount.path(&format!("f{i}"))).expect("deletes work on a full image");
    }
    let mut file = File::create(mount.path("again")).expect("there is room again");
    file.write_all(&pattern(5_000_000, 9)).expect("for data too");
    file.sync_all().expect("sync");
    drop(file);
    mount.umount();
    ok(&["fsck", place.image()]);
    let mount = place.mount("", &[]);
    assert_eq!(fs::read(mount.path("again")).expect("read"), pattern(5_000_000, 9));
    mount.umount();
}

#[test]
fn what_does_not_fit_as_a_whole_leaves_no_blocks_behind() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let mount = place.mount("nowriteback", &[]);
    let free = || mount.stat()["space"]["free"].as_u64().expect("a number");
    fs::write(mount.path("f"), b"").expect("create");
    let before = free();
    let file = File::options().write(true).open(mount.path("f")).expect("open");
    let e = nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, 1 << 30);
    assert_eq!(e, Err(nix::errno::Errno::ENOSPC));
    assert_eq!(free(), before);
    drop(file);
    mount.umount();
    ok(&["fsck", place.image()]);
}

#[test]
fn zeroing_needs_no_blocks_that_it_has_and_changes_nothing_when_it_needs_more() {
    use nix::fcntl::{FallocateFlags, fallocate};
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let mount = place.mount("nowriteback", &[]);
    let old = pattern(1 << 20, 3);
    fs::write(mount.path("f"), &old).expect("there is room");
    for i in 0.. {
        let other = mount.path(&format!("other{i}"));
        let full = fs::write(&other, pattern(1 << 20, i)).is_err();
        File::open(&other).and_then(|f| f.sync_all()).expect("sync");
        if full {
            break;
        }
    }
    let file = File::options().read(true).write(true).open(mount.path("f")).expect("open");
    let zero = |offset, len| fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, offset, len);
    let blocks = |file: &File| file.metadata().map(|m| m.blocks()).expect("fstat");
    let before = blocks(&file);
    assert_eq!(zero(40_000, 64 << 20), Err(nix::errno::Errno::ENOSPC));
    // Directly: the page cache of the kernel does not know what the server did.
    let served = || {
        let mut bytes = vec![0; old.len()];
        common::open_direct(&mount.path("f")).read_exact_at(&mut bytes, 0).expect("read");
        bytes
    };
    assert!(served() == old, "a refusal changes nothing");
    assert_eq!(zero(40_000, 900_000), Ok(()), "the file has these blocks");
    assert_eq!(blocks(&file), before);
    let mut wanted = old.clone();
    wanted[40_000..940_000].fill(0);
    assert!(served() == wanted, "zeros inside, and nothing else outside");
    // What was zeroed can be written without new blocks.
    file.write_all_at(&pattern(900_000, 5), 40_000).expect("there is room");
    wanted[40_000..940_000].copy_from_slice(&pattern(900_000, 5));
    drop(file);
    mount.umount();
    ok(&["fsck", place.image()]);
    let mount = place.mount("", &[]);
    assert!(fs::read(mount.path("f")).expect("read") == wanted, "all of it survives");
    mount.umount();
}
