//! The metadata area of a filesystem that was emptied.

mod images;

use inflight::disk::{Disk, MemoryDisk};
use inflight::fsck::{self, Options as FsckOptions, Outcome};
use inflight::image::mkfs::{self, MkfsOptions, ROOT};
use inflight::image::{BLOCK, probe};
use inflight::mounted;
use inflight::ops::Fs;
use inflight::options::{Options, ReadMode};
use std::sync::Arc;

/// What was written for files that are gone is given back, once; a check only says so.
#[test]
fn an_emptied_filesystem_gives_the_blocks_of_its_metadata_back() {
    const BLOCKS: u64 = 64 << 8;
    const FILES: usize = 60_000;
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(BLOCKS * BLOCK));
    mkfs::format(&disk, &MkfsOptions::default(), BLOCKS).expect("mkfs");
    let options = Options { read: ReadMode::Copy, threads: 1, slabs: 1, ..Options::default() };
    let open = || mounted::open_on(disk.clone(), &options).expect("open");
    let free = |fs: &Fs| fs.statfs().expect("statfs").free;
    let fs = open();
    let before = free(&fs);
    let name = |i: usize| format!("a file with a long name, number {i}");
    for i in 0..FILES {
        images::make(&fs, ROOT, &name(i), libc::S_IFREG | 0o644, None).expect("make");
    }
    let kept = images::file(&fs, ROOT, "kept", 9000).expect("file");
    for i in 0..FILES {
        fs.unlink(ROOT, name(i).as_bytes()).expect("unlink");
    }
    mounted::close(&fs).expect("close");
    let check = |repair| {
        let options = FsckOptions { repair, progress: &|_| () };
        fsck::check_on(&disk, &options).expect("it can be checked")
    };
    let had = probe::superblock(&*disk, false).expect("superblock").backed_bytes() / BLOCK;
    let report = check(false);
    assert_eq!((report.outcome, report.found.notes), (Outcome::Clean, 1), "{report:#?}");
    assert!(report.found.list[0].problem.starts_with(&format!("has {had} blocks")));
    let report = check(true);
    assert_eq!(report.outcome, Outcome::Clean);
    assert_eq!(report.left.as_ref().expect("written").total(), 0, "{report:#?}");
    assert!(!check(true).is_modified(), "once is enough");
    let has = probe::superblock(&*disk, false).expect("superblock").backed_bytes() / BLOCK;
    assert!(4 * has < had, "{has} blocks instead of {had}");
    let fs = open();
    assert!(free(&fs) + 1024 > before, "{} free blocks of {before}", free(&fs));
    assert_eq!(images::read(&fs, kept, 0, 9000).expect("read"), images::stamped(kept, 0, 9000));
    mounted::close(&fs).expect("close");
}
