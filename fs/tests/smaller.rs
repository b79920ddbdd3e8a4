//! A filesystem that is made smaller, and a power cut at any moment of it.

mod common;
mod images;
#[allow(dead_code)] // it is another test's, which uses all of it
#[path = "power_cut/platter.rs"]
mod platter;
#[allow(dead_code)]
#[path = "power_cut/states.rs"]
mod states;

use common::{Place, can_mount, ok, refused};
use inflight::disk::{Disk, MemoryDisk, Recorder};
use inflight::fsck::{self, Options as FsckOptions, Outcome, ShrinkError};
use inflight::image::mkfs::{self, MkfsOptions, ROOT};
use inflight::image::{BLOCK, probe};
use inflight::mounted;
use inflight::ops::Fs;
use inflight::options::{Options, ReadMode};
use platter::{Platter, Sectors};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use states::{Budget, States};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Blocks of an allocation group.
const GROUP: u64 = 8192;
const MIB: usize = 1 << 20;

fn open(disk: &Arc<dyn Disk>) -> Fs {
    let options = Options { read: ReadMode::Copy, threads: 1, slabs: 1, ..Options::default() };
    mounted::open_on(disk.clone(), &options).expect("open")
}

fn check(disk: &Arc<dyn Disk>) -> fsck::Report {
    let options = FsckOptions { repair: false, progress: &|_| () };
    fsck::check_on(disk, &options).expect("it can be checked")
}

fn size(disk: &Arc<dyn Disk>) -> u64 {
    probe::superblock(&**disk, false).expect("a superblock").total_blocks
}

/// Files by number: how long they are.
type Files = BTreeMap<u64, usize>;

/// An image of `blocks` blocks that was full, and of whose files every `keep`-th is left: they lie everywhere.
fn image(blocks: u64, file: usize, keep: usize) -> (MemoryDisk, Files) {
    let memory = Arc::new(MemoryDisk::new(blocks * BLOCK));
    let disk: Arc<dyn Disk> = memory.clone();
    mkfs::format(&disk, &MkfsOptions::default(), blocks).expect("mkfs");
    let fs = open(&disk);
    let mut all = Vec::new();
    while let Ok(ino) = images::file(&fs, ROOT, &format!("file {}", all.len()), file + all.len()) {
        all.push(ino);
    }
    let kept = |n: &usize| (n + 1).is_multiple_of(keep);
    let left = all.iter().enumerate().filter(|(n, _)| kept(n));
    let mut files: Files = left.map(|(n, ino)| (*ino, file + n)).collect();
    for n in (0..all.len()).filter(|n| !kept(n)) {
        fs.unlink(ROOT, format!("file {n}").as_bytes()).expect("unlink");
    }
    // The one that did not fit may be there in part.
    let _ = fs.unlink(ROOT, format!("file {}", all.len()).as_bytes());
    fs.volume().commit_if_changed(inflight::image::store::Recovery::Walk).expect("commit");
    // A hole, reserved blocks, and a link.
    let sparse = images::file(&fs, ROOT, "sparse", 5000).expect("file");
    fs.fallocate(inflight::ops::Caller::default(), sparse, 0, 1 << 20, 300_000).expect("fallocate");
    fs.link(sparse, ROOT, b"link").expect("link");
    fs.forget(sparse, 1);
    files.insert(sparse, 5000);
    mounted::close(&fs).expect("close");
    assert!(files.len() > 3, "{files:?}");
    (memory.fork(), files)
}

fn assert_has(disk: &Arc<dyn Disk>, files: &Files) {
    let fs = open(disk);
    for (ino, len) in files {
        let bytes = images::read(&fs, *ino, 0, *len).expect("read");
        assert!(bytes == images::stamped(*ino, 0, *len), "file {ino} of {len} bytes");
    }
    mounted::close(&fs).expect("close");
}

fn smallest(disk: &Arc<dyn Disk>) -> u64 {
    match fsck::shrink_on(disk, 1, &|_| ()) {
        Err(ShrinkError::TooSmall { smallest, .. }) => smallest / BLOCK,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_that_lay_behind_the_new_end_lies_before_it() {
    for (from, file, keep) in [
        (3 * GROUP + 100, MIB, 3),
        (4 * GROUP, 300_000, 4),
        (2 * GROUP + 5, 9 * MIB, 2),
        (5 * GROUP, 40_000, 20),
    ] {
        let (disk, files) = image(from, file, keep);
        let smallest = smallest(&(Arc::new(disk.fork()) as Arc<dyn Disk>));
        assert!(smallest < from, "{smallest} of {from}");
        let middle = (smallest + from) / 2;
        for to in [smallest, smallest + 1, middle, middle.next_multiple_of(GROUP), from - 1] {
            let disk: Arc<dyn Disk> = Arc::new(disk.fork());
            fsck::shrink_on(&disk, to, &|_| ()).unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
            let report = check(&disk);
            assert_eq!(report.outcome, Outcome::Clean, "{from} to {to}: {report:#?}");
            assert_eq!(report.found.total(), 0, "{report:#?}");
            assert_eq!(size(&disk), to);
            // Nothing behind the end counts any more.
            disk.write(to * BLOCK, &vec![0xff; ((from - to) * BLOCK) as usize]).expect("write");
            assert_has(&disk, &files);
            let fs = open(&disk);
            let free = fs.statfs().expect("statfs").free;
            // Files can be deleted, and made until it is full; it stays sound.
            fs.unlink(ROOT, b"link").expect("unlink");
            let mut n = 0;
            while images::file(&fs, ROOT, &format!("new {n}"), 200_000).is_ok() {
                n += 1;
            }
            assert!(n as u64 * 49 <= free, "{n} files in {free} blocks");
            mounted::close(&fs).expect("close");
            assert_eq!(check(&disk).outcome, Outcome::Clean, "{from} to {to}");
            assert_has(&disk, &files);
        }
    }
}

#[test]
fn a_power_cut_at_any_write_leaves_the_old_filesystem_or_the_new_one() {
    const BUDGET: Budget = Budget { prefixes: 60, torn: 12, without: 12, only: 12, random: 12 };
    let (from, to) = (2 * GROUP, GROUP + 500);
    let (before, files) = image(from, 400_000, 6);
    let recorder = Arc::new(Recorder::new(Arc::new(before.fork())));
    fsck::shrink_on(&(recorder.clone() as Arc<dyn Disk>), to, &|_| ()).expect("shrink");
    let log = recorder.take_log();
    assert!(log.len() > 50, "{}", log.len());
    let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
    let mut states = States::new(&log, BUDGET, ChaCha8Rng::seed_from_u64(1));
    let visited = states.each(Sectors::new(Arc::new(before)), 0, |state| {
        let platter = Arc::new(Platter::new(state.sectors.clone()));
        let disk: Arc<dyn Disk> = platter.clone();
        let how = || format!("cut after {} of {}, {:?}", state.cut, log.len(), state.how);
        let report = fsck::inspect(&disk).unwrap_or_else(|e| panic!("{}: {e}", how()));
        assert_eq!(report.outcome, Outcome::Clean, "{}: {report:#?}", how());
        platter.make_writable();
        *sizes.entry(size(&disk)).or_default() += 1;
        assert_has(&disk, &files);
        if size(&disk) == from {
            // Nothing has to be finished, and it can be done again.
            fsck::shrink_on(&disk, to, &|_| ()).unwrap_or_else(|e| panic!("{}: {e}", how()));
            assert_eq!(check(&disk).outcome, Outcome::Clean, "{}", how());
            assert_has(&disk, &files);
        }
        Ok::<(), ()>(())
    });
    assert_eq!(visited, Ok(()));
    assert_eq!(sizes.keys().copied().collect::<Vec<_>>(), [to, from], "{sizes:?}");
}

#[test]
fn resize_makes_an_image_smaller_that_is_not_mounted() {
    let place = Place::new(256);
    let image = place.image();
    let length = || std::fs::metadata(image).expect("stat").len();
    ok(&["resize", image, "100M"]);
    assert_eq!(length(), 100 << 20);
    ok(&["fsck", image]);
    let said = refused(1, &["resize", image, "8M"]);
    assert!(said.contains("the smallest that would do is 16777216 (16M)"), "{said}");
    if !can_mount() {
        return;
    }
    let mount = place.mount("", &[]);
    let content = common::pattern(70 << 20, 3);
    std::fs::write(mount.path("large"), &content).expect("write");
    let said = refused(1, &["resize", image, "90M"]);
    assert!(said.contains("unmount it to make it smaller"), "{said}");
    mount.umount();
    let said = refused(1, &["resize", image, "60M"]);
    let smallest = said.trim_end().rsplit_once('(').expect("a size").1.trim_end_matches(')');
    ok(&["resize", image, smallest]);
    assert_eq!(ok(&["resize", image]).split(' ').nth(2), Some("MiB"));
    ok(&["fsck", image]);
    // A file that a crash left too long is cut, when the size is said.
    let has = length();
    std::fs::File::options().write(true).open(image).expect("open").set_len(2 * has).expect("cut");
    ok(&["resize", image, &has.to_string()]);
    assert_eq!(length(), has);
    let mount = place.mount("", &[]);
    assert!(std::fs::read(mount.path("large")).expect("read") == content);
    mount.umount();
}
