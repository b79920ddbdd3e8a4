//! Images that somebody or something damaged: whatever the bytes, the program answers with data or
//! with an error. It never panics, never hangs, and never shows one file the data of another.
//!
//! Every case comes from one seed, which is printed when it fails; `HOSTILE_SEED=N` runs that case
//! alone, `HOSTILE_CASES=N` runs more of them.

mod images;

use images::{Image, foreign, make, read, walk};
use inflight::fsck::Outcome;
use inflight::image::BLOCK;
use inflight::image::mkfs::ROOT;
use inflight::image::superblock::{Chunk, SECOND, Superblock};
use inflight::mounted;
use inflight::ops::{Caller, Fs};
use rand::{Rng, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

/// A case takes well under a second; one that takes this long hangs.
const HANG: Duration = Duration::from_secs(60);

/// The good image that every case damages.
struct Subject {
    image: Image,
    good: Vec<u8>,
    superblock: Superblock,
}

impl Subject {
    fn new() -> Subject {
        let image = Image::reproducible();
        let (good, superblock) = (image.bytes(), image.superblock());
        Subject { image, good, superblock }
    }

    /// Byte ranges of the metadata area.
    fn metadata(&self) -> Vec<Range<usize>> {
        let bytes = |c: &Chunk| (c.start * BLOCK) as usize..((c.start + c.blocks) * BLOCK) as usize;
        self.superblock.chunks.iter().map(bytes).collect()
    }

    /// A byte of the metadata area; mostly where something is.
    fn spot(&self, bytes: &[u8], rng: &mut impl Rng) -> usize {
        let areas = self.metadata();
        loop {
            let area = areas[rng.random_range(0..areas.len())].clone();
            let at = rng.random_range(area);
            if bytes[at] != 0 || rng.random_ratio(1, 50) {
                return at;
            }
        }
    }
}

/// A seed replays exactly what it was printed for: in another process, too.
#[test]
fn the_image_that_cases_damage_is_the_same_each_time() {
    let (one, two) = (Subject::new(), Subject::new());
    let differing = one.good.chunks(4096).zip(two.good.chunks(4096)).enumerate();
    let differing: Vec<usize> = differing.filter(|(_, (a, b))| a != b).map(|(n, _)| n).collect();
    assert_eq!(differing, [0; 0], "these blocks differ");
}

/// Pages that nothing can read: what becomes of them depends on where they were.
const DAMAGED: &[Option<Outcome>] = &[Some(Outcome::Corrected), Some(Outcome::Uncorrected)];

/// What a look at the whole filesystem came to.
#[derive(Default)]
struct Seen {
    files: usize,
    /// A file showed the data of another one.
    foreign: Option<String>,
}

/// Opens, walks and reads everything; errors are fine.
fn use_all(fs: &Fs) -> Seen {
    let mut seen = Seen::default();
    for (path, ino) in walk(fs) {
        let Ok(entry) = fs.getattr(ino) else { continue };
        let _ = (
            fs.readlink(ino),
            fs.listxattr(Caller::default(), ino),
            fs.getxattr(ino, b"user.about"),
        );
        if entry.attr.mode & libc::S_IFMT != libc::S_IFREG {
            continue;
        }
        for at in [0, 1 << 20, 2 << 20] {
            let Ok(bytes) = read(fs, ino, at, 128 << 10) else { continue };
            seen.files += 1;
            if let Some(other) = foreign(ino, at, &bytes) {
                seen.foreign = Some(format!("{path} (inode {ino}) shows data of {other:#x}"));
            }
        }
    }
    seen
}

/// Changes a little of everything; errors are fine.
fn change_some(fs: &Fs) {
    for (path, ino) in walk(fs).into_iter().take(40) {
        // As the kernel does, which asks nothing of a directory that only files can do.
        let is_file = fs.getattr(ino).is_ok_and(|e| e.attr.is_file());
        let path = path.replace('/', "_");
        let _ = images::write(fs, ino, 3000, 9000);
        let _ = make(fs, ino, "new", libc::S_IFREG | 0o644, None);
        let _ = make(fs, ino, "newdir", libc::S_IFDIR | 0o755, None);
        if path.len() % 3 == 0 {
            let _ = fs.rename(Default::default(), (ino, b"new"), (ROOT, path.as_bytes()), 0);
            let _ = fs.rmdir(ino, b"newdir");
            let _ = fs.unlink(ino, b"file1");
        }
        let set = inflight::ops::SetAttr { size: Some(100), ..Default::default() };
        if is_file {
            let _ = fs.setattr(ino, &set);
        }
    }
}

/// One case: a mount that only reads, a check, a mount that writes, a repair, and a check of that.
fn judge(image: &Image) -> Result<Option<Outcome>, String> {
    let damaged = image.bytes();
    let seen = image.open(true).map(|fs| {
        let seen = use_all(&fs);
        let _ = mounted::close(&fs);
        seen
    });
    if image.bytes() != damaged {
        return Err("a read-only mount wrote to the image".into());
    }
    let checked = image.try_fsck(false);
    if image.bytes() != damaged {
        return Err("a check wrote to the image".into());
    }
    let clean = checked.as_ref().is_ok_and(|r| r.outcome == Outcome::Clean);
    if let Ok(Some(foreign)) = seen.map(|s| s.foreign)
        && clean
    {
        return Err(format!("{foreign}, and fsck finds nothing"));
    }
    if let Ok(fs) = image.open(false) {
        change_some(&fs);
        let _ = mounted::close(&fs);
    }
    image.restore(&damaged);
    let Ok(repaired) = image.try_fsck(true) else { return Ok(None) };
    if repaired.is_modified() && repaired.outcome == Outcome::Uncorrected {
        return Err(format!("repair left errors: {:#?}", repaired.left));
    }
    let again = image.fsck(false);
    if repaired.outcome != Outcome::Uncorrected {
        if again.found.total() != 0 {
            return Err(format!("a check after a repair finds {:#?}", again.found.list));
        }
        let fs = image.open(false).map_err(|e| format!("a repaired image does not mount: {e}"))?;
        let seen = use_all(&fs);
        change_some(&fs);
        mounted::close(&fs).map_err(|e| format!("a repaired image does not close: {e}"))?;
        if let Some(foreign) = seen.foreign {
            return Err(format!("after the repair {foreign}; found {:#?}", repaired.found.list));
        }
        let last = image.fsck(false);
        if last.outcome != Outcome::Clean {
            return Err(format!("changes after a repair left {:#?}", last.found.list));
        }
    }
    Ok(Some(repaired.outcome))
}

/// Runs `damage` with many seeds; some of them must end as `wanted`, or the cases test nothing.
fn cases(
    name: &str,
    count: u64,
    wanted: &[Option<Outcome>],
    damage: impl Fn(&Subject, &mut Vec<u8>, &mut ChaCha8Rng),
) {
    let number = |key| std::env::var(key).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match (number("HOSTILE_SEED"), number("HOSTILE_CASES")) {
        (Some(seed), _) => seed..seed + 1,
        (None, more) => 0..more.unwrap_or(count),
    };
    let subject = Subject::new();
    let alone = number("HOSTILE_SEED").is_some();
    let (mut outcomes, mut hits) = (Vec::new(), 0);
    for seed in seeds {
        let mut bytes = subject.good.clone();
        damage(&subject, &mut bytes, &mut ChaCha8Rng::seed_from_u64(seed));
        subject.image.restore(&bytes);
        // The watchdog ends the process: a thread that hangs cannot be stopped.
        let (done, wait) = mpsc::channel::<()>();
        let label = format!("{name} HOSTILE_SEED={seed}");
        let watched = label.clone();
        let watchdog = std::thread::spawn(move || {
            if wait.recv_timeout(HANG) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{watched}: hangs");
                std::process::abort();
            }
        });
        let result = catch_unwind(AssertUnwindSafe(|| judge(&subject.image)));
        drop(done);
        let _ = watchdog.join();
        match result {
            Ok(Ok(outcome)) => hits += usize::from(wanted.contains(&outcome)),
            Ok(Err(text)) => outcomes.push(format!("{label}: {text}")),
            Err(_) => outcomes.push(format!("{label}: panics")),
        }
    }
    assert!(hits > 0 || alone, "{name}: no case ended as {wanted:?}");
    assert!(outcomes.is_empty(), "{} cases failed:\n{}", outcomes.len(), outcomes.join("\n"));
}

// > A damaged or hostile image is refused or answers errors; no panic, no bytes of another file.
#[test]
fn flipped_bits_in_the_metadata() {
    cases(
        "flipped_bits_in_the_metadata",
        40,
        &[Some(Outcome::Corrected)],
        |subject, bytes, rng| {
            for _ in 0..1 << rng.random_range(0..6) {
                let at = subject.spot(bytes, rng);
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
        },
    );
}

#[test]
fn zeroed_and_random_blocks_in_the_metadata() {
    cases("zeroed_and_random_blocks_in_the_metadata", 25, DAMAGED, |subject, bytes, rng| {
        let at = subject.spot(bytes, rng) / BLOCK as usize * BLOCK as usize;
        let block = &mut bytes[at..at + BLOCK as usize];
        if rng.random() { block.fill(0) } else { rng.fill(block) }
    });
}

#[test]
fn damage_to_the_head_of_the_database() {
    cases("damage_to_the_head_of_the_database", 40, DAMAGED, |subject, bytes, rng| {
        // Behind the first block of checksums.
        let start = ((subject.superblock.chunks[0].start + 1) * BLOCK) as usize;
        for _ in 0..rng.random_range(1..4) {
            bytes[start + rng.random_range(0..400)] = rng.random();
        }
    });
}

#[test]
fn damaged_superblocks() {
    cases("damaged_superblocks", 25, &[Some(Outcome::Corrected)], |_, bytes, rng| {
        let second = (SECOND * BLOCK) as usize;
        for start in [0, second] {
            if rng.random() {
                bytes[start + rng.random_range(0..BLOCK as usize)] ^= 1 << rng.random_range(0..8);
            }
        }
    });
}

#[test]
fn superblocks_with_good_checksums_and_bad_fields() {
    cases("superblocks_with_good_checksums_and_bad_fields", 30, &[None], |subject, bytes, rng| {
        let mut sb = subject.superblock.clone();
        let wild = |rng: &mut ChaCha8Rng| rng.random::<u64>() >> rng.random_range(0..64);
        match rng.random_range(0..9) {
            0 => sb.total_blocks = wild(rng),
            1 => sb.metadata_bytes = wild(rng),
            2 => sb.chunks[0].blocks = wild(rng),
            3 => sb.chunks[0].start = wild(rng),
            4 => sb.chunks.reverse(),
            5 => sb.state = rng.random(),
            6 => sb.chunks.push(Chunk { logical: 1 << 20, start: 5500, blocks: 100 }),
            7 => sb.hash_key = rng.random(),
            _ => drop(sb.chunks.pop()),
        }
        let second = (SECOND * BLOCK) as usize;
        for start in [0, second] {
            bytes[start..start + BLOCK as usize].copy_from_slice(&sb.encode());
        }
    });
}

#[test]
fn truncated_images() {
    cases("truncated_images", 15, &[Some(Outcome::Uncorrected)], |_, bytes, rng| {
        let len = bytes.len() >> rng.random_range(0..12);
        bytes.truncate(rng.random_range(0..=len));
    });
}

/// Rows that decode and contradict each other, under good checksums: what an attacker writes.
// > A damaged or hostile image is refused or answers errors; no panic, no bytes of another file.
#[test]
fn crafted_rows() {
    use images::{COUNTERS, EXTENTS, INODES, NAMES, ORPHANS};
    use redb::ReadableTable as _;
    let subject = Subject::new();
    let inodes = subject.image.fsck(false).inodes;
    let wild = |rng: &mut ChaCha8Rng| match rng.random_range(0..3) {
        0 => rng.random_range(0..inodes + 3),
        1 => u64::MAX - rng.random_range(0..3),
        _ => rng.random::<u64>() >> rng.random_range(0..64),
    };
    let damage = |_: &Subject, bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng| {
        let image = Image::of(bytes);
        image.edit(|txn| {
            for _ in 0..rng.random_range(1..12) {
                let ino = rng.random_range(1..inodes);
                match rng.random_range(0..6) {
                    0 | 1 => {
                        let mut table = txn.open_table(INODES).expect("table");
                        let row = table.get(ino).expect("get").map(|r| r.value().to_vec());
                        let Some(mut row) = row else { continue };
                        let field = 4 * rng.random_range(0..row.len() / 4 - 1);
                        let value = wild(rng).to_le_bytes();
                        row[field..field + 8].copy_from_slice(&value);
                        table.insert(ino, row.as_slice()).expect("insert");
                    }
                    2 => {
                        let mut table = txn.open_table(EXTENTS).expect("table");
                        let key = (ino, wild(rng) % 1000);
                        // Not the blocks of others: who owns those, no check can know.
                        let extent = (wild(rng) | 1 << 40, wild(rng));
                        table.insert(key, extent).expect("insert");
                    }
                    3 => {
                        let mut table = txn.open_table(NAMES).expect("table");
                        let mut key = ino.to_be_bytes().to_vec();
                        key.extend(wild(rng).to_be_bytes());
                        let name: [u8; 3] = rng.random();
                        for i in 0..rng.random_range(1..60u8) {
                            key.truncate(16);
                            key.extend(name);
                            key.push(i);
                            let mut value = wild(rng).to_le_bytes().to_vec();
                            value.push(rng.random_range(0..16));
                            table.insert(key.as_slice(), value.as_slice()).expect("insert");
                        }
                    }
                    4 => {
                        let mut table = txn.open_table(ORPHANS).expect("table");
                        table.insert(wild(rng), ()).expect("insert");
                    }
                    _ => {
                        let mut table = txn.open_table(COUNTERS).expect("table");
                        let name = ["next_inode", "inodes_used"][rng.random_range(0..2)];
                        table.insert(name, wild(rng)).expect("insert");
                    }
                }
            }
        });
        *bytes = image.bytes();
    };
    cases("crafted_rows", 40, &[Some(Outcome::Corrected)], damage);
}
