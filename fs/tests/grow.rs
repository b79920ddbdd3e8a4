//! A filesystem that is made larger, with and without a mount, and a power cut at any moment of it.

mod common;
mod images;

use common::{Place, can_mount, ok, refused};
use inflight::disk::{Disk, Event, MemoryDisk, Recorder};
use inflight::fsck::{self, Options as FsckOptions, Outcome};
use inflight::image::mkfs::{self, MkfsOptions, ROOT};
use inflight::image::{BLOCK, probe};
use inflight::mounted;
use inflight::ops::Fs;
use inflight::options::{Options, ReadMode};
use std::sync::Arc;

/// Blocks of an allocation group.
const GROUP: u64 = 8192;

fn open(disk: Arc<dyn Disk>) -> Fs {
    let options = Options { read: ReadMode::Copy, threads: 1, slabs: 1, ..Options::default() };
    mounted::open_on(disk, &options).expect("open")
}

fn grow(disk: Arc<dyn Disk>, blocks: u64) {
    let fs = open(disk);
    fs.volume().grow(blocks).expect("grow");
    mounted::close(&fs).expect("close");
}

fn check(disk: &Arc<dyn Disk>, repair: bool) -> Outcome {
    let options = FsckOptions { repair, progress: &|_| () };
    fsck::check_on(disk, &options).expect("it can be checked").outcome
}

fn free(fs: &Fs) -> u64 {
    fs.statfs().expect("statfs").free
}

/// An image of `blocks` blocks with a file, on a disk of `room` blocks; the file's number.
fn image(blocks: u64, room: u64, file: usize) -> (MemoryDisk, u64) {
    let memory = Arc::new(MemoryDisk::new(room * BLOCK));
    let disk: Arc<dyn Disk> = memory.clone();
    mkfs::format(&disk, &MkfsOptions::default(), blocks).expect("mkfs");
    let fs = open(disk);
    let ino = images::file(&fs, ROOT, "kept", file).expect("file");
    mounted::close(&fs).expect("close");
    (memory.fork(), ino)
}

#[test]
fn all_that_is_new_is_free_wherever_the_old_end_was() {
    // In the first group, at the end of a group, in a group that is all free or in part; within and beyond a row of counts.
    let sizes = [
        (GROUP - 5, GROUP - 1),
        (GROUP / 2 + 1, 3 * GROUP + 7),
        (2 * GROUP, 2 * GROUP + 1),
        (2 * GROUP + 5, 2 * GROUP + 6),
        (2 * GROUP + 5, 3 * GROUP),
        (3 * GROUP - 1, 5 * GROUP + 100),
        (512 * GROUP - 3, 513 * GROUP + 9),
    ];
    for (from, to) in sizes {
        for file in [1000, 20 << 20] {
            if file as u64 / BLOCK > from / 2 {
                continue;
            }
            let (disk, ino) = image(from, to, file);
            let disk: Arc<dyn Disk> = Arc::new(disk);
            let before = free(&open(disk.clone()));
            grow(disk.clone(), to);
            assert_eq!(check(&disk, false), Outcome::Clean, "{from} to {to}");
            let fs = open(disk.clone());
            assert_eq!(fs.statfs().expect("statfs").blocks, to);
            // The metadata area may have grown by a step.
            let now = free(&fs);
            assert!(
                now + 4096 >= before + to - from && now <= before + to - from,
                "{from} to {to}: {before}, {now}"
            );
            let kept = images::read(&fs, ino, 0, 1000).expect("read");
            assert_eq!(kept, images::stamped(ino, 0, 1000));
            mounted::close(&fs).expect("close");
        }
    }
}

#[test]
fn a_power_cut_at_any_write_leaves_what_growing_again_makes_whole() {
    for from in [GROUP + 100, 2 * GROUP, 3 * GROUP - 100] {
        let to = 3 * GROUP + 50;
        let (before, ino) = image(from, to, 1 << 20);
        let recorder = Arc::new(Recorder::new(Arc::new(before.fork())));
        grow(recorder.clone(), to);
        let log = recorder.take_log();
        assert!(log.len() > 10, "{}", log.len());
        let state = before.fork();
        let mut sizes = std::collections::BTreeSet::new();
        for event in log {
            match event {
                Event::Write { offset, data } => state.write(offset, &data).expect("write"),
                Event::Discard { offset, len } => state.discard(offset, len).expect("discard"),
                Event::Sync => continue,
            }
            let left: Arc<dyn Disk> = Arc::new(state.fork());
            sizes.insert(probe::superblock(&*left, true).expect("a superblock").total_blocks);
            grow(left.clone(), to);
            let outcome = check(&left, true);
            assert!(matches!(outcome, Outcome::Clean | Outcome::Corrected), "{outcome:?}");
            assert_eq!(check(&left, false), Outcome::Clean);
            let fs = open(left);
            assert_eq!(fs.statfs().expect("statfs").blocks, to);
            let kept = images::read(&fs, ino, 0, 1 << 20).expect("read");
            assert_eq!(kept, images::stamped(ino, 0, 1 << 20));
            mounted::close(&fs).expect("close");
        }
        assert_eq!(Vec::from_iter(sizes), [from, to]);
    }
}

#[test]
fn resize_makes_room_with_and_without_a_mount() {
    let place = Place::new(16);
    let image = place.image();
    assert!(refused(1, &["resize", image, "20000001"]).contains("not a multiple of 4096"));
    ok(&["resize", image, "24M"]);
    ok(&["resize", image]);
    ok(&["fsck", image]);
    assert_eq!(std::fs::metadata(image).expect("stat").len(), 24 << 20);
    if !can_mount() {
        return;
    }
    let mount = place.mount("", &[]);
    let large = vec![7; 40 << 20];
    let full = std::fs::write(mount.path("large"), &large)
        .and_then(|()| std::fs::File::open(mount.path("large")).and_then(|file| file.sync_all()));
    assert!(full.is_err(), "40 MiB do not fit");
    std::fs::remove_file(mount.path("large")).expect("remove");
    ok(&["resize", mount.dir.to_str().expect("path"), "64M"]);
    std::fs::write(mount.path("large"), &large).expect("write");
    std::fs::File::open(mount.path("large")).expect("open").sync_all().expect("now they do");
    ok(&["resize", image, "96M"]);
    assert_eq!(mount.stat()["space"]["total"], (96 << 20) / 4096);
    mount.umount();
    ok(&["fsck", image]);
}
