//! Direct writes into blocks that are there, which a queue's own ring makes.

mod common;

use common::{Place, can_mount, ok, open_direct, pattern};
use inflight::mounted;
use inflight::ops::overwrite::Overwrite;
use inflight::ops::{Caller, Control, Fs, Make, WriteArgs};
use inflight::options::Options;
use rand::{RngExt as _, SeedableRng as _};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1 };

fn at(ino: u64, offset: u64) -> WriteArgs {
    let (direct, append, cached, kill_suidgid) = (true, false, false, false);
    WriteArgs { ino, offset, direct, append, cached, kill_suidgid }
}

/// A file of 16 blocks with data, 4 that are preallocated, a hole of 4, and one block more.
fn file(fs: &Fs) -> u64 {
    let (mode, target, security) = (libc::S_IFREG | 0o6755, None, &[][..]);
    let make =
        Make { caller: ROOT, parent: 1, name: b"f", mode, umask: 0, rdev: 0, target, security };
    let ino = fs.make(&make).expect("make").ino;
    fs.write(&at(ino, 0), &pattern(16 * 4096, 1)).expect("write");
    fs.fallocate(ROOT, ino, 0, 16 * 4096, 4 * 4096).expect("fallocate");
    fs.write(&at(ino, 24 * 4096), &pattern(4096, 2)).expect("write");
    ino
}

fn with_file(test: impl FnOnce(&Arc<Fs>, u64)) {
    let place = Place::new(32);
    let options = Options { slabs: 1, open_messages: true, ..Options::default() };
    let fs = Arc::new(mounted::open(&place.image, &options).expect("an image"));
    if !fs.io().has_direct() {
        return common::lacking("the image's filesystem has no O_DIRECT");
    }
    let ino = file(&fs);
    test(&fs, ino);
    mounted::close(&fs).expect("close");
    drop(fs);
    ok(&["fsck", place.image()]);
}

#[test]
fn only_one_transfer_into_data_is_an_overwrite() {
    with_file(|fs, ino| {
        let begins = |offset, len| Overwrite::begin(fs, &at(ino, offset), len).is_some();
        assert!(begins(0, 4096) && begins(4096, 15 * 4096) && begins(24 * 4096, 4096));
        assert!(!begins(0, 0), "of nothing");
        assert!(!begins(1, 4096) && !begins(0, 100), "not aligned");
        assert!(!begins(15 * 4096, 2 * 4096) && !begins(16 * 4096, 4096), "preallocated");
        assert!(!begins(20 * 4096, 4096), "a hole");
        assert!(!begins(24 * 4096, 2 * 4096) && !begins(25 * 4096, 4096), "behind the end");
        let buffered = WriteArgs { direct: false, ..at(ino, 0) };
        assert!(Overwrite::begin(fs, &buffered, 4096).is_none());
        assert!(Overwrite::begin(fs, &at(1, 0), 4096).is_none(), "a directory");
        let append = &0x20_u32.to_le_bytes();
        let set = Control { caller: ROOT, ino, command: 0x4008_6602, input: append };
        fs.ioctl(&set).expect("FS_IOC_SETFLAGS");
        assert!(!begins(0, 4096), "append-only");
    });
}

#[test]
fn the_range_is_held_until_the_end() {
    with_file(|fs, ino| {
        let first = Overwrite::begin(fs, &at(ino, 4096), 8192).expect("an overwrite");
        assert!(Overwrite::begin(fs, &at(ino, 8192), 4096).is_none(), "somebody writes there");
        let next = Overwrite::begin(fs, &at(ino, 3 * 4096), 4096).expect("that is beside it");
        assert_eq!(next.offset(), first.offset() + 8192);
        assert!(fs.write_waits(&WriteArgs { direct: false, ..at(ino, 8192) }, 10));
        drop(next);
        // The device took a part of it: the rest is written then.
        let kill = WriteArgs { kill_suidgid: true, ..at(ino, 0) };
        let whole = Overwrite::begin(fs, &kill, 4096).expect("an overwrite");
        let written = whole.finish(ROOT, &pattern(4096, 7), &Ok(512)).expect("written");
        assert_eq!((written.bytes, written.allocated, written.privileges), (4096, false, true));
        drop(first);
        assert!(Overwrite::begin(fs, &at(ino, 4096), 8192).is_some(), "it was let go");
        let mut image = vec![0; 3 * 4096];
        let offset = Overwrite::begin(fs, &at(ino, 0), 4096).expect("an overwrite").offset();
        fs.volume().store().disk().read(offset, &mut image).expect("read");
        assert!(image[..4096] == pattern(4096, 7)[..]);
        assert!(
            image[4096..] == pattern(16 * 4096, 1)[4096..3 * 4096],
            "what was dropped changed nothing"
        );
    });
}

/// Blocks of the file that is written on the mount.
const BLOCKS: u64 = 256;

fn stamped(stamp: u64, blocks: u64) -> Vec<u8> {
    stamp.to_le_bytes().repeat(blocks as usize * 512)
}

/// The stamp of each block, all of which is the same.
fn stamps(bytes: &[u8]) -> Vec<u64> {
    let word = |word: &[u8]| u64::from_le_bytes(word.try_into().expect("8 bytes"));
    let one = |block: &[u8]| {
        let stamp = word(&block[..8]);
        assert!(block.chunks(8).all(|other| word(other) == stamp), "a block of two writes");
        stamp
    };
    bytes.chunks(4096).map(one).collect()
}

#[test]
fn many_at_once_leave_whole_blocks_in_their_place() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let mount = place.mount("transport=uring", &[]);
    let path = mount.path("f");
    fs::write(&path, stamped(1, BLOCKS)).expect("write");
    File::open(&path).and_then(|file| file.sync_all()).expect("sync");
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let file = open_direct(&path);
            scope.spawn(move || {
                let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(thread);
                for round in 0..200 {
                    let block = rng.random_range(0..BLOCKS);
                    let blocks = rng.random_range(1..=(BLOCKS - block).min(16));
                    let stamp = block << 32 | thread << 16 | round;
                    file.write_all_at(&stamped(stamp, blocks), block * 4096).expect("write");
                    let mut found = vec![0; 4096];
                    file.read_exact_at(&mut found, block * 4096).expect("read");
                    stamps(&found);
                }
            });
        }
    });
    let found = fs::read(&path).expect("read");
    for (block, stamp) in stamps(&found).into_iter().enumerate() {
        let first = (stamp >> 32) as usize;
        assert!(stamp == 1 || (first..first + 16).contains(&block), "{stamp:x} in block {block}");
    }
    assert!(mount.stat()["writes"]["direct"]["requests"].as_u64() >= Some(800));
    mount.umount();
    ok(&["fsck", place.image()]);
    let mount = place.mount("", &[]);
    assert!(fs::read(mount.path("f")).expect("read") == found);
    mount.umount();
}
