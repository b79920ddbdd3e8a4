//! What must not be done where waiting is not allowed: on the thread of a core's queue.

mod common;
mod held_disk;

use held_disk::{Held, HeldDisk};
use inflight::disk::{Disk, MemoryDisk};
use inflight::errno::Errno;
use inflight::image::mkfs;
use inflight::mounted;
use inflight::ops::{Caller, Fs, Make, WriteArgs};
use inflight::options::Options;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
const ME: Caller = Caller { uid: 0, gid: 0, pid: 1 };

fn at(ino: u64, offset: u64) -> WriteArgs {
    let (direct, append, cached, kill_suidgid) = (false, false, false, false);
    WriteArgs { ino, offset, direct, append, cached, kill_suidgid }
}

fn make(fs: &Fs, name: &[u8]) -> u64 {
    let (mode, target, security) = (libc::S_IFREG | 0o644, None, &[][..]);
    let make = Make { caller: ME, parent: 1, name, mode, umask: 0, rdev: 0, target, security };
    fs.make(&make).expect("make").ino
}

fn with_slow_disk(mib: u64, test: impl FnOnce(&HeldDisk, &Fs)) {
    let memory = MemoryDisk::new(mib << 20);
    let disk = Arc::new(HeldDisk::new(memory, Held::Flushes));
    let own: Arc<dyn Disk> = Arc::<HeldDisk>::clone(&disk);
    mkfs::format(&own, &mkfs::MkfsOptions::default(), mib << 8).expect("mkfs");
    let fs = mounted::open_on(own, &Options { slabs: 1, ..Options::default() }).expect("open");
    test(&disk, &fs);
    mounted::close(&fs).expect("close");
}

#[test]
fn while_a_commit_is_flushed_changes_wait_and_the_rest_does_not() {
    with_slow_disk(64, |disk, fs| {
        let ino = make(fs, b"f");
        fs.write(&at(ino, 0), &[7; 8192]).expect("write");
        // A write looks for capabilities, and must not wait for the commit to find none.
        fs.setxattr(ME, ino, b"user.a", b"1", 0).expect("setxattr");
        let waits = || {
            let (there, new) = (at(ino, 0), at(ino, 8192));
            (fs.change_waits(&[1]), fs.write_waits(&new, 4096), fs.write_waits(&there, 4096))
        };
        assert_eq!(waits(), (false, false, false));
        assert!(!fs.resize_waits(ino, 0));
        disk.hold(true);
        std::thread::scope(|scope| {
            let commit = scope.spawn(|| fs.syncfs());
            disk.await_call();
            assert_eq!(waits(), (true, true, false));
            assert!(fs.resize_waits(ino, 0));
            assert_eq!(fs.lookup(1, b"f").expect("lookup").ino, ino);
            assert_eq!(fs.getattr(ino).expect("getattr").attr.size, 8192);
            let (told, heard) = mpsc::channel();
            scope.spawn(move || told.send(fs.write(&at(ino, 0), &[8; 4096])));
            let written = heard.recv_timeout(PATIENCE);
            assert!(!commit.is_finished());
            disk.hold(false);
            written.expect("nothing to wait for").expect("an overwrite");
            commit.join().expect("a thread").expect("a commit");
        });
        assert_eq!(waits(), (false, false, false));
    });
}

#[test]
fn a_new_size_waits_for_the_device_where_a_block_is_zeroed_or_many_rows_go() {
    with_slow_disk(64, |_, fs| {
        let ino = make(fs, b"f");
        fs.write(&at(ino, 0), &[7; 6000]).expect("write");
        let waits = |size| fs.resize_waits(ino, size);
        assert_eq!([0, 4096, 5000, 6000].map(waits), [false; 4]);
        assert!(waits(6001), "the last block has a rest that was never zeroed");
        fs.write(&at(ino, 8192), &[7; 2 << 20]).expect("write");
        assert!(waits(0), "it may have a row for each of 512 blocks");
    });
}

#[test]
fn on_a_full_image_changes_may_have_to_wait() {
    with_slow_disk(16, |_, fs| {
        let ino = make(fs, b"f");
        let mut offset = 0;
        while fs.write(&at(ino, offset), &[7; 65_536]).is_ok() {
            offset += 65_536;
        }
        assert!(fs.write_waits(&at(ino, offset), 65_536));
        assert!(fs.change_waits(&[1]));
    });
}

#[test]
fn a_flush_is_enough_only_while_nothing_of_the_file_waits_for_a_commit() {
    let place = common::Place::new(64);
    let options = Options { slabs: 1, ..Options::default() };
    let fs = mounted::open(&place.image, &options).expect("open");
    let ino = make(&fs, b"f");
    let enough = |data_only| fs.flush_only(ino, data_only).is_some();
    assert!(!enough(true), "its name is in no commit");
    fs.fsync(ino, false).expect("fsync");
    assert!(enough(false));
    fs.write(&at(ino, 0), &[7; 4096]).expect("write");
    assert!(!enough(true), "its block is in no commit");
    fs.fsync(ino, true).expect("fdatasync");
    fs.write(&at(ino, 0), &[8; 4096]).expect("write");
    assert!(enough(true) && !enough(false), "only its times are new");
    // Whoever made the flush says how it went, and after one that failed nothing is promised.
    let failed = || Err(io::Error::from_raw_os_error(libc::EIO));
    assert_eq!(fs.flushed(failed()), Err(Errno::EIO));
    assert!(!enough(true));
    assert_eq!(fs.fsync(ino, true), Err(Errno::EIO));
    mounted::close(&fs).expect_err("what came last is lost");
}
