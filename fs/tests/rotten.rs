//! Every block of the metadata area is damaged in turn, on an image that nobody uses and under an
//! open one: whoever meets it gets an error, nobody panics or is shown something else, what does not
//! need it goes on, and repair brings back what can be brought back.

mod images;

use images::{Image, stamped};
use inflight::disk::{Disk, FileDisk, MemoryDisk};
use inflight::image::BLOCK;
use inflight::image::fsck::Outcome;
use inflight::image::mkfs::ROOT;
use inflight::image::superblock::Superblock;
use inflight::mounted;
use inflight::ops::Fs;
use inflight::options::{Options, ReadMode};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The image in memory, where damage costs nothing.
fn memory(bytes: &[u8]) -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new(bytes.len() as u64);
    for (i, block) in bytes.chunks(BLOCK as usize).enumerate() {
        if block.iter().any(|b| *b != 0) {
            disk.write(i as u64 * BLOCK, block).expect("write");
        }
    }
    Arc::new(disk)
}

fn open(disk: Arc<MemoryDisk>) -> Result<Fs, String> {
    let options = Options { read: ReadMode::Copy, threads: 1, slabs: 1, ..Options::default() };
    mounted::open_on(disk, &options).map_err(|e| e.to_string())
}

/// The blocks of the image that hold metadata.
fn metadata_blocks(sb: &Superblock) -> Vec<u64> {
    sb.chunks.iter().flat_map(|c| c.start..c.start + c.blocks).collect()
}

/// Looks at everything; an answer is an error or what was written. Counts both.
fn look(fs: &Fs, files: &[(u64, usize)]) -> (usize, usize) {
    let (mut right, mut refused) = (0, 0);
    for (ino, len) in files {
        match images::read(fs, *ino, 0, *len) {
            Ok(bytes) => {
                assert!(bytes == stamped(*ino, 0, *len), "inode {ino} is something else");
                right += 1;
            }
            Err(_) => refused += 1,
        }
    }
    (right, refused)
}

fn files(image: &Image) -> Vec<(u64, usize)> {
    let fs = image.open(true).expect("open");
    let found = images::walk(&fs);
    let len = |ino: u64| fs.getattr(ino).expect("attributes").attr;
    let files = found.iter().filter(|(path, _)| path.contains("/file"));
    let all = files.map(|(_, ino)| (*ino, len(*ino).size as usize)).collect();
    mounted::close(&fs).expect("close");
    all
}

#[test]
fn a_rotten_block_on_an_image_at_rest_is_an_error_for_whoever_meets_it() {
    let image = Image::with_content();
    let (files, bytes, sb) = (files(&image), image.bytes(), image.superblock());
    let (mut refused_mounts, mut refused_reads, mut harmless) = (0, 0, 0);
    for block in metadata_blocks(&sb) {
        let disk = memory(&bytes);
        disk.write(block * BLOCK + 1000, &[0xa5; 700]).expect("damage");
        let result = catch_unwind(AssertUnwindSafe(|| {
            let fs = match open(disk.clone()) {
                Ok(fs) => fs,
                Err(_) => return (0, files.len() + 1),
            };
            let seen = look(&fs, &files);
            // The last commit may meet the damage: an error then, and nothing worse.
            let _ = mounted::close(&fs);
            seen
        }));
        match result.unwrap_or_else(|_| panic!("block {block}: a panic")) {
            (_, 0) => harmless += 1,
            (0, n) if n > files.len() => refused_mounts += 1,
            _ => refused_reads += 1,
        }
    }
    assert!(refused_mounts > 0 && refused_reads > 0 && harmless > 0);
}

// > A rotten block of metadata is an error for the request that meets it, and for no other.
#[test]
fn a_block_that_rots_under_a_mount_harms_only_those_who_need_it() {
    let image = Image::with_content();
    let (files, bytes, sb) = (files(&image), image.bytes(), image.superblock());
    let (mut partial, mut harmless) = (0, 0);
    for block in metadata_blocks(&sb) {
        let disk = memory(&bytes);
        let fs = open(disk.clone()).expect("open");
        // Nothing was read yet but what opening reads: the caches are as good as dropped.
        disk.write(block * BLOCK + 1000, &[0xa5; 700]).expect("damage");
        let seen = catch_unwind(AssertUnwindSafe(|| look(&fs, &files)));
        let (right, refused) = seen.unwrap_or_else(|_| panic!("block {block}: a panic"));
        assert_eq!(right + refused, files.len());
        partial += usize::from(right > 0 && refused > 0);
        harmless += usize::from(refused == 0);
        let _ = mounted::close(&fs);
    }
    assert!(partial > 0, "some block is needed by some files and not by others");
    assert!(harmless > 0);
}

#[test]
fn repair_brings_back_what_a_rotten_block_does_not_hold() {
    let image = Image::with_content();
    let (bytes, sb) = (image.bytes(), image.superblock());
    let (mut found, mut clean) = (0, 0);
    // Every seventh: a repair takes its time.
    for block in metadata_blocks(&sb).into_iter().step_by(7) {
        image.restore(&bytes);
        let disk = FileDisk::open(&image.path(), true).expect("open");
        disk.write(block * BLOCK + 1000, &[0xa5; 700]).expect("damage");
        drop(disk);
        let before = image.bytes();
        let checked = image.try_fsck(false);
        assert!(image.bytes() == before, "block {block}: a check wrote");
        let Ok(report) = checked else { continue };
        if report.outcome == Outcome::Clean {
            clean += 1;
            continue;
        }
        found += 1;
        let repaired = image.fsck(true);
        if repaired.outcome == Outcome::Corrected {
            let again = image.fsck(false);
            assert_eq!(again.found.total(), 0, "block {block}: {:#?}", again.found.list);
            let fs = image.open(false).expect("a repaired image mounts");
            for (path, ino) in images::walk(&fs) {
                let bytes = images::read(&fs, ino, 0, 64 << 10).unwrap_or_default();
                let foreign = images::foreign(ino, 0, &bytes);
                assert_eq!(foreign, None, "block {block}: {path} shows another file's data");
            }
            mounted::close(&fs).expect("close");
        }
    }
    assert!(found > 0 && clean > 0);
}

/// The blocks that hold the checksums of others are rotten, and nothing else is: redb's own
/// checksums say so, and nothing is lost.
#[test]
fn a_rotten_block_of_checksums_costs_nothing() {
    let image = Image::with_content();
    let files = files(&image);
    let paths = |image: &Image| {
        let fs = image.open(true).expect("open");
        let found = images::walk(&fs);
        mounted::close(&fs).expect("close");
        found
    };
    let before = paths(&image);
    let disk = FileDisk::open(&image.path(), true).expect("open");
    let first = image.superblock().chunks[0].start;
    disk.write(first * BLOCK, &[0x5a; BLOCK as usize]).expect("damage");
    drop(disk);
    assert!(image.open(false).is_err(), "the mount refuses");
    assert_eq!(image.fsck(false).outcome, Outcome::Uncorrected);
    assert_eq!(image.fsck(true).outcome, Outcome::Corrected);
    assert_eq!(image.fsck(false).found.total(), 0);
    assert!(paths(&image) == before, "every name is there");
    let fs = image.open(true).expect("open");
    assert_eq!(look(&fs, &files), (files.len(), 0));
    mounted::close(&fs).expect("close");
}

/// A leaf of extents is lost: the files whose extents were in it are, and no others.
#[test]
fn only_files_whose_extents_were_in_a_rotten_block_lose_them() {
    let image = Image::with_content();
    let (files, bytes, sb) = (files(&image), image.bytes(), image.superblock());
    let mut partial = 0;
    for block in metadata_blocks(&sb) {
        image.restore(&bytes);
        let disk = FileDisk::open(&image.path(), true).expect("open");
        disk.write(block * BLOCK + 1000, &[0xa5; 700]).expect("damage");
        drop(disk);
        let Ok(report) = image.try_fsck(false) else { continue };
        let lost = |f: &&inflight::image::fsck::Finding| {
            f.object == "table extents" && f.remedy == "the rows that can be read are kept"
        };
        if !report.found.list.iter().any(|f| lost(&f)) {
            continue;
        }
        assert_eq!(image.fsck(true).outcome, Outcome::Corrected, "block {block}");
        let fs = image.open(true).expect("open");
        let whole = files.iter().filter(|(ino, len)| {
            let read = images::read(&fs, *ino, 0, *len).expect("a repaired file can be read");
            assert_eq!(images::foreign(*ino, 0, &read), None, "block {block}");
            read == stamped(*ino, 0, *len)
        });
        let whole = whole.count();
        mounted::close(&fs).expect("close");
        partial += usize::from(whole > files.len() / 3 && whole < files.len());
    }
    assert!(partial > 0, "a leaf takes its own files along and leaves the others");
}

/// A branch that made up pages beyond the end of the file once made the database refuse all that
/// followed: many blocks are rotten here, and what they do not hold is kept.
#[test]
fn many_rotten_blocks_cost_what_they_hold() {
    const FILES: usize = 12_000;
    let image = Image::empty();
    let fs = image.open(false).expect("open");
    for i in 0..FILES {
        let name = format!("aFileWithAName{i:06}");
        images::make(&fs, ROOT, &name, libc::S_IFREG | 0o644, None).expect("make");
    }
    mounted::close(&fs).expect("close");
    let (bytes, blocks) = (image.bytes(), metadata_blocks(&image.superblock()));
    let (mut kept_most, mut tried) = (0, 0);
    for first in [31, 37, 43, 59] {
        image.restore(&bytes);
        let disk = FileDisk::open(&image.path(), true).expect("open");
        for block in blocks.iter().skip(first).step_by(101) {
            disk.write(block * BLOCK + 1000, &[0xa5; 700]).expect("damage");
        }
        drop(disk);
        let report = image.fsck(true);
        if report.outcome == Outcome::Uncorrected {
            continue;
        }
        tried += 1;
        assert_eq!(image.fsck(false).found.total(), 0);
        kept_most += usize::from(report.inodes > FILES as u64 * 3 / 4);
    }
    assert!(tried > 0 && kept_most * 2 > tried, "{kept_most} of {tried}");
}

/// A leaf that made up a key behind everything else once took all names along that came after it.
#[test]
fn a_rotten_leaf_of_names_takes_only_its_own_rows_along() {
    const FILES: usize = 12_000;
    let image = Image::empty();
    let fs = image.open(false).expect("open");
    for i in 0..FILES {
        let name = format!("aFileWithAName{i:06}");
        images::make(&fs, ROOT, &name, libc::S_IFREG | 0o644, None).expect("make");
    }
    mounted::close(&fs).expect("close");
    let bytes = image.bytes();
    let names_in = |block: u64| {
        let block = &bytes[(block * BLOCK) as usize..((block + 1) * BLOCK) as usize];
        block.windows(14).filter(|w| *w == b"aFileWithAName").count()
    };
    let blocks = metadata_blocks(&image.superblock());
    let leaves: Vec<u64> = blocks.into_iter().filter(|block| names_in(*block) > 20).collect();
    assert!(leaves.len() > FILES / 100, "names fill leaves");
    let mut lost_some = 0;
    for leaf in leaves.into_iter().step_by(37) {
        for (at, len) in [(1000, 700), (0, 60), (300, 40)] {
            image.restore(&bytes);
            let disk = FileDisk::open(&image.path(), true).expect("open");
            disk.write(leaf * BLOCK + at, &vec![0xa5; len]).expect("damage");
            drop(disk);
            let found = image.fsck(false).found;
            // Each lost name is one error, and a few are about the table and the directory.
            assert!(found.errors < 200, "block {leaf} at {at}: {} errors", found.errors);
            lost_some += usize::from(found.errors > 20);
        }
    }
    assert!(lost_some > 0, "some of the leaves were in use");
}
