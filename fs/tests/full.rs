//! A full image: every operation answers, deletes work, nothing is lost.

mod common;

use common::{Place, can_mount, ok, pattern};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

// > A full image keeps answering: reads, deletes and fsync work, and deletes make room at once.
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
    let said = nix::sys::statvfs::statvfs(&mount.dir).expect("statvfs");
    assert_eq!(
        (said.files_free(), said.blocks_available()),
        (0, 0),
        "df -i believes that there is room"
    );
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

// > A program that writes until the image is full ends: write(2) fails with ENOSPC.
#[test]
fn a_program_that_writes_until_nothing_fits_ends() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let mount = place.mount("", &[]);
    let mut file = File::create(mount.path("all")).expect("create");
    let (chunk, kept) = (pattern(1 << 20, 3), mount.path("kept"));
    fs::write(&kept, "kept").expect("there is room");
    let refused = (0..8192).find_map(|_| file.write_all(&chunk).err());
    let refused = refused.expect("8 GiB were accepted on 32 MiB");
    assert_eq!(refused.kind(), ErrorKind::StorageFull, "{refused}");
    let len = fs::metadata(mount.path("all")).expect("stat is not told").len();
    assert!(len > 1 << 20, "{len}");
    // fsync and close go on reporting what write-back lost, as without this.
    let _ = file.sync_all();
    drop(file);
    fs::remove_file(mount.path("all")).expect("remove");
    assert_eq!(fs::read(&kept).expect("read"), b"kept");
    let mut file = File::create(mount.path("again")).expect("create");
    file.write_all(&chunk).and_then(|()| file.sync_all()).expect("there is room again");
    drop(file);
    mount.umount();
    ok(&["fsck", place.image()]);
}

// > What is refused with ENOSPC changes nothing and keeps no blocks.
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

// > What fallocate(2) has set aside can be written when nothing is free any more.
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

/// What a crash leaves when many files were open without a name and nothing was free.
#[test]
fn many_files_without_a_name_do_not_keep_a_full_image_from_being_mounted() {
    use inflight::image::store::Recovery;
    use inflight::mounted;
    use inflight::ops::{Caller, Make};
    use inflight::options::Options;
    let place = Place::new(32);
    let options = Options { slabs: 1, ..Options::default() };
    let fs = mounted::open(&place.image, &options).expect("an image");
    let caller = Caller { uid: 0, gid: 0, pid: 1 };
    let make = |name: &[u8]| {
        let mode = libc::S_IFREG | 0o644;
        fs.make(&Make {
            caller,
            parent: 1,
            name,
            mode,
            umask: 0,
            rdev: 0,
            target: None,
            security: &[],
        })
    };
    let name = |i: u32| format!("{i:0>200}").into_bytes();
    // One in many pieces, the others with attributes: every one of them is more than a row.
    let pieces = make(b"pieces").expect("room").ino;
    let mut made = 0;
    while made < 2_000 {
        let ino = make(&name(made)).expect("room").ino;
        fs.setxattr(caller, ino, b"user.a", &[5; 300], 0).expect("room");
        fs.fallocate(caller, pieces, 0, u64::from(made) * 8192, 4096).expect("room");
        made += 1;
        if made % 500 == 0 {
            fs.syncfs().expect("sync");
        }
    }
    let big = make(b"big").expect("room").ino;
    let mut size = 32 << 20;
    while size > 2048 {
        let at = fs.getattr(big).expect("getattr").attr.size;
        if fs.fallocate(caller, big, 0, at, size).is_err() {
            size /= 2;
        }
    }
    fs.syncfs().expect("sync");
    (0..made).for_each(|i| fs.unlink(1, &name(i)).expect("unlink"));
    fs.unlink(1, b"pieces").expect("unlink");
    fs.syncfs().expect("sync");
    while make(format!("fill{made:0>200}").as_bytes()).is_ok() {
        made += 1;
    }
    fs.syncfs().expect("sync");
    // Most of the reserve is used up too, as metadata that only deletes may write would do it.
    let space = fs.volume().store().space();
    let run = || {
        let want = space.usage().free.saturating_sub(100);
        space.allocate(want, None).or_else(|| space.take_reserved(want, None))
    };
    while let Some(run) = run() {
        space.publish(run);
    }
    fs.volume().commit(Recovery::Quick).expect("commit");
    let free = space.usage();
    // Dropped without close, as a crash would.
    drop(fs);

    let fs = mounted::open(&place.image, &options);
    let fs = fs.unwrap_or_else(|e| panic!("{e}; {free:?}"));
    assert!(fs.getattr(pieces).is_err(), "reclaimed");
    assert!(fs.volume().store().space().usage().free > free.free);
    mounted::close(&fs).expect("close");
}
