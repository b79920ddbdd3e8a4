//! Every block of the metadata area is damaged in turn, on an image that nobody uses and under an
//! open one: whoever meets it gets an error, nobody panics or is shown something else, what does not
//! need it goes on, and repair brings back what can be brought back.

mod images;

use images::{Image, stamped};
use inflight::disk::{Disk, FileDisk, MemoryDisk};
use inflight::fsck::{self, Outcome};
use inflight::image::BLOCK;
use inflight::image::mkfs::ROOT;
use inflight::image::superblock::Superblock;
use inflight::mounted;
use inflight::ops::Fs;
use inflight::options::{Options, ReadMode};
use std::collections::HashSet;
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
    mounted::open_on(disk, &copying()).map_err(|e| e.to_string())
}

fn copying() -> Options {
    Options { read: ReadMode::Copy, threads: 1, slabs: 1, ..Options::default() }
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

/// What a filesystem shows: names by the directory that has them, and files that are whole.
struct Seen {
    /// Directory, name and inode.
    names: HashSet<(u64, String, u64)>,
    whole: HashSet<u64>,
}

fn see(fs: &Fs, files: &[(u64, usize)]) -> Seen {
    let found = images::walk(fs);
    let split = |(path, ino): (&String, &u64)| {
        let (dir, name) = path.rsplit_once('/').expect("a slash");
        let dir = if dir.is_empty() { ROOT } else { found[dir] };
        (dir, name.to_owned(), *ino)
    };
    let is_whole = |(ino, len): &&(u64, usize)| {
        images::read(fs, *ino, 0, *len).is_ok_and(|bytes| bytes == stamped(*ino, 0, *len))
    };
    let whole = files.iter().filter(is_whole).map(|(ino, _)| *ino).collect();
    for (path, ino) in &found {
        let bytes = images::read(fs, *ino, 0, 64 << 10).unwrap_or_default();
        assert_eq!(images::foreign(*ino, 0, &bytes), None, "{path} shows another file's data");
    }
    Seen { names: found.iter().map(split).collect(), whole }
}

/// What was in a block: rows of a leaf, and numbers and names in them.
struct Content<'b>(&'b [u8]);

impl Content<'_> {
    fn has(&self, bytes: &[u8]) -> bool {
        const LEAF: u8 = 1;
        self.0[0] == LEAF && self.0.windows(bytes.len()).any(|window| window == bytes)
    }

    fn speaks_of(&self, ino: u64) -> bool {
        self.has(&ino.to_le_bytes())
    }
}

/// Each block of the metadata area in turn: header and roots, the allocator's notes, branches,
/// leaves and checksums.
#[test]
fn repair_keeps_all_that_is_not_in_a_rotten_block() {
    let image = Image::with_content();
    let (files, bytes, sb) = (files(&image), image.bytes(), image.superblock());
    let options = fsck::Options { repair: true, progress: &|_| () };
    let before = see(&open(memory(&bytes)).expect("open"), &files);
    assert_eq!(before.whole.len(), files.len());
    let (mut met, mut costly) = (0, 0);
    let (mut names, mut whole, mut least) = (0, 0, files.len());
    for block in metadata_blocks(&sb) {
        let at = (block * BLOCK) as usize;
        let content = Content(&bytes[at..at + BLOCK as usize]);
        if content.0.iter().all(|byte| *byte == 0) {
            // It was never written.
            continue;
        }
        let disk = memory(&bytes);
        disk.write(block * BLOCK, &[0xa5; BLOCK as usize]).expect("damage");
        let disk: Arc<dyn Disk> = disk;
        let report = fsck::check_on(&disk, &options).expect("it can be checked");
        if report.found.total() == 0 {
            continue;
        }
        assert_eq!(report.outcome, Outcome::Corrected, "block {block}: {report:#?}");
        let again = fsck::check_on(&disk, &options).expect("it can be checked");
        assert_eq!(again.found.total(), 0, "block {block}: {:#?}", again.found.list);
        let fs = mounted::open_on(disk, &copying()).expect("a repaired image opens");
        let after = see(&fs, &files);
        mounted::close(&fs).expect("close");
        for (dir, name, ino) in before.names.difference(&after.names) {
            let has = content.has(name.as_bytes()) || content.speaks_of(*ino);
            assert!(has || content.speaks_of(*dir), "block {block}: {name} ({ino}) is lost");
        }
        for ino in before.whole.difference(&after.whole) {
            assert!(content.speaks_of(*ino), "block {block}: the content of {ino} is lost");
        }
        met += 1;
        costly += usize::from(after.whole.len() < files.len());
        names += before.names.intersection(&after.names).count();
        whole += after.whole.len();
        least = least.min(after.whole.len());
    }
    let share = |n: usize, all: usize| n as f64 / (met * all) as f64;
    let (names, whole) = (share(names, before.names.len()), share(whole, files.len()));
    eprintln!(
        "{met} blocks mattered: {names:.4} of the names and {whole:.4} of the files were kept; \
         {costly} blocks cost files, one at most {} of {}",
        files.len() - least,
        files.len()
    );
    assert!(met > 20 && costly > 0, "{met} blocks mattered, {costly} cost files");
    assert!(names > 0.9 && whole > 0.9, "names {names}, files {whole}");
}

/// The power goes, and the first block of the database with it: nothing says any more where the
/// newest commit is, and pages of earlier ones are everywhere.
#[test]
fn the_newest_commit_is_found_without_the_header() {
    let image = Image::with_content();
    let fs = image.open(false).expect("open");
    for i in 0..30 {
        images::file(&fs, ROOT, &format!("file{i}"), 3000).expect("file");
        if i % 3 == 0 {
            fs.unlink(ROOT, format!("file{i}").as_bytes()).expect("unlink");
        }
        fs.syncfs().expect("commit");
    }
    let bytes = image.bytes();
    drop(fs);
    let files = {
        let whole = Image::of(&bytes);
        let (files, fs) = (files(&whole), whole.open(true).expect("open"));
        assert_eq!(look(&fs, &files), (files.len(), 0));
        mounted::close(&fs).expect("close");
        files
    };
    let image = Image::of(&bytes);
    let header = image.superblock().chunks[0].start + 1;
    let disk = FileDisk::open(&image.path(), true).expect("open");
    disk.write(header * BLOCK, &[0xa5; BLOCK as usize]).expect("damage");
    drop(disk);
    let damaged = image.bytes();
    assert_eq!(image.fsck(false).outcome, Outcome::Uncorrected);
    assert!(image.bytes() == damaged, "a check wrote");
    assert_eq!(image.fsck(true).outcome, Outcome::Corrected);
    let repaired = image.bytes();
    assert_eq!(image.fsck(true).found.total(), 0);
    assert!(image.bytes() == repaired, "a second repair wrote");
    let fs = image.open(false).expect("open");
    assert_eq!(look(&fs, &files), (files.len(), 0));
    let names = images::walk(&fs);
    let left = (0..30).filter(|i| names.contains_key(&format!("/file{i}")));
    assert_eq!(left.count(), 20);
    mounted::close(&fs).expect("close");
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
        let lost = |f: &&inflight::fsck::Finding| {
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
