//! What the fuzz targets of `fs/fuzz` do with their bytes; a test does it with the corpus.
//!
//! Checksums are made right: a block of the database is changed through the metadata area, which
//! sums it anew, and a row through the database, so that the bytes reach what is behind them.
#![allow(dead_code)] // Each target uses a part of it.

use inflight::disk::{Disk, MemoryDisk};
use inflight::fsck::{self, Options as FsckOptions, Outcome};
use inflight::image::guard::guard;
use inflight::image::metastore::{Backend, MetaStore};
use inflight::image::mkfs::{self, MkfsOptions, ROOT};
use inflight::image::probe;
use inflight::image::store::open_database;
use inflight::image::superblock::{SECOND, Superblock};
use inflight::image::tables::{Extent, InodeRow, split_name_key, split_name_value};
use inflight::mounted;
use inflight::ops::acl::Acl;
use inflight::ops::read::{Body, ReadArgs};
use inflight::ops::{Answer, Caller, Fs, Make, SetAttr, WriteArgs};
use inflight::options::{Options, ReadMode};
use redb::{ReadableTable as _, StorageBackend as _, TableDefinition};
use std::sync::{Arc, LazyLock};
use zerocopy::IntoBytes as _;

const BLOCK: u64 = 4096;
const TOTAL: u64 = 4096;

/// Four bytes of checksum are appended: any 4092 bytes are a superblock whose checksum is right.
pub fn superblock(data: &[u8]) {
    let mut block = vec![0; BLOCK as usize];
    let len = data.len().min(block.len() - 4);
    block[..len].copy_from_slice(&data[..len]);
    let _ = Superblock::decode(&block);
    block[..8].copy_from_slice(b"INFLIGHT");
    sign(&mut block);
    if let Ok(sb) = Superblock::decode(&block) {
        let again = Superblock::decode(&sb.encode()).expect("what was decoded can be encoded");
        assert_eq!(sb, again);
        assert!(sb.chunks.iter().all(|c| c.start + c.blocks <= sb.total_blocks));
    }
}

fn sign(block: &mut [u8]) {
    let end = block.len() - 4;
    let sum = crc(&block[..end]);
    block[end..].copy_from_slice(&sum.to_le_bytes());
}

/// CRC-32C, bit by bit: independent of the code under test.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

/// Rows of every table are decoded, and encoded again to what they were.
pub fn values(data: &[u8]) {
    if let Some(attr) = InodeRow::decode(data) {
        let again = InodeRow::decode(InodeRow::new(&attr).as_bytes());
        assert_eq!(again, Some(attr));
    }
    if let Some(acl) = Acl::decode(data) {
        assert_eq!(acl.encode(), data);
        let _ = (acl.mode(), acl.is_mode_only(), acl.inherit(0o644).mode());
    }
    let _ = (split_name_key(data), split_name_value(data));
    if let Some((first, rest)) = data.split_first_chunk::<8>()
        && let Some(second) = rest.first_chunk::<8>()
    {
        let value = (u64::from_le_bytes(*first), u64::from_le_bytes(*second));
        assert_eq!(Extent::unpack(value).pack(), value);
    }
}

/// A filesystem with a little of everything, made once.
static GOOD: LazyLock<MemoryDisk> = LazyLock::new(|| {
    let disk = Arc::new(MemoryDisk::new(TOTAL * BLOCK));
    let made: Arc<dyn Disk> = disk.clone();
    mkfs::format(&made, &MkfsOptions::default(), TOTAL).expect("mkfs");
    let fs = open(disk.clone()).expect("open");
    fill(&fs).expect("fill");
    mounted::close(&fs).expect("close");
    disk.fork()
});

/// Changes blocks and rows as `data` says, then uses, checks, repairs and uses the image.
pub fn image(data: &[u8]) {
    let disk = Arc::new(GOOD.fork());
    let mut words = Words(data);
    let Some(done) = mutate(&disk, &mut words) else { return };
    let used = Arc::new(disk.fork());
    if let Ok(fs) = open(used.clone()) {
        use_all(&fs, done.owners_are_kept && done.bitmaps_are_kept);
        let _ = mounted::close(&fs);
    }
    let shared: Arc<dyn Disk> = disk.clone();
    let options = |repair| FsckOptions { repair, progress: &|_| () };
    let Ok(report) = fsck::check_on(&shared, &options(true)) else { return };
    let again = fsck::check_on(&shared, &options(false)).expect("a repaired image can be checked");
    match report.outcome {
        Outcome::Clean | Outcome::Corrected => {
            assert_eq!(again.found.total(), 0, "{:#?}\nafter {report:#?}", again.found.list);
            let fs = open(disk).expect("a repaired image mounts");
            use_all(&fs, done.owners_are_kept);
            mounted::close(&fs).expect("a repaired image closes");
            let last = fsck::check_on(&shared, &options(false)).expect("check");
            assert_eq!(last.outcome, Outcome::Clean, "{:#?}", last.found.list);
        }
        Outcome::Uncorrected => assert!(!report.is_modified(), "errors left: {report:#?}"),
    }
}

/// Numbers and bytes out of the input.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes(1).map(|b| b[0])
    }

    fn word(&mut self) -> Option<u64> {
        let bytes = self.bytes(8)?;
        Some(u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
    }

    /// Mostly a small number.
    fn number(&mut self) -> Option<u64> {
        match self.byte()? {
            255 => self.word(),
            254 => Some(u64::MAX - u64::from(self.byte()?)),
            small => Some(small.into()),
        }
    }
}

/// What mutations left alone. What a row says with the right checksum is so: an extent that is
/// made to speak of another file's block is an extent like any other, and a block that the bitmaps
/// are made to call free is given to the next one.
struct Mutated {
    owners_are_kept: bool,
    bitmaps_are_kept: bool,
}

fn mutate(disk: &Arc<MemoryDisk>, words: &mut Words<'_>) -> Option<Mutated> {
    let mut done = Mutated { owners_are_kept: true, bitmaps_are_kept: true };
    for _ in 0..24 {
        let Some(what) = words.byte() else { break };
        done.owners_are_kept &= !matches!(what % 8, 0 | 4);
        done.bitmaps_are_kept &= !matches!(what % 8, 0 | 6);
        match what % 8 {
            0 => change_block(disk, words)?,
            1 => change_superblock(disk, words)?,
            table => change_row(disk, table, words)?,
        }
    }
    Some(done)
}

/// Bytes of a block of the database, whose checksum is made right.
fn change_block(disk: &Arc<MemoryDisk>, words: &mut Words<'_>) -> Option<()> {
    let sb = probe::superblock(&**disk, true).ok()?;
    let blocks = sb.metadata_bytes / BLOCK;
    let at = (words.word()? % (blocks.max(1) * BLOCK)).min(sb.metadata_bytes.checked_sub(8)?);
    let bytes = words.bytes(4)?;
    let backend = Backend(Arc::new(MetaStore::new(disk.clone(), sb)));
    backend.write(at, bytes).ok()?;
    backend.sync_data().ok()
}

fn change_superblock(disk: &Arc<MemoryDisk>, words: &mut Words<'_>) -> Option<()> {
    let (at, bytes) = (words.word()?, words.bytes(2)?);
    let copies = words.byte()?;
    for copy in [0, SECOND].into_iter().take(1 + usize::from(copies % 2)) {
        let mut block = vec![0; BLOCK as usize];
        disk.read(copy * BLOCK, &mut block).ok()?;
        let at = 16 + at as usize % (BLOCK as usize - 32);
        block[at..at + 2].copy_from_slice(bytes);
        sign(&mut block);
        disk.write(copy * BLOCK, &block).ok()?;
    }
    Some(())
}

/// A row that is changed, made or removed, in a database that is whole.
fn change_row(disk: &Arc<MemoryDisk>, table: u8, words: &mut Words<'_>) -> Option<()> {
    type Bytes = &'static [u8];
    let sb = probe::superblock(&**disk, true).ok()?;
    let meta = Arc::new(MetaStore::new(disk.clone(), sb));
    let (key, second, value) = (words.number()?, words.number()?, words.number()?);
    let mut change = || {
        let mut db = open_database(&meta).ok()?;
        // Blocks may have been changed before.
        if !matches!(db.check_integrity(), Ok(true)) {
            std::mem::forget(db);
            return None;
        }
        let mut txn = db.begin_write().ok()?;
        match table {
            2 | 3 => {
                let mut t = txn.open_table(TableDefinition::<u64, Bytes>::new("inodes")).ok()?;
                let row = t.get(key).ok()?.map(|row| row.value().to_vec());
                let mut row = row.unwrap_or_else(|| vec![0; 112]);
                let at = second as usize % (row.len() - 8);
                row[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
                t.insert(key, row.as_slice()).ok()?;
            }
            4 => {
                let definition = TableDefinition::<(u64, u64), (u64, u64)>::new("extents");
                let mut t = txn.open_table(definition).ok()?;
                t.insert((key, second), (value, words.number()?)).ok()?;
            }
            5 => {
                let mut t = txn.open_table(TableDefinition::<Bytes, Bytes>::new("names")).ok()?;
                let rest = words.bytes(6)?;
                let name = [&key.to_be_bytes()[..], &second.to_be_bytes(), &rest[1..]].concat();
                let row = [&value.to_le_bytes()[..], &rest[..1]].concat();
                t.insert(name.as_slice(), row.as_slice()).ok()?;
            }
            6 => {
                let name = ["groups", "free", "targets"][second as usize % 3];
                let mut t = txn.open_table(TableDefinition::<u64, Bytes>::new(name)).ok()?;
                t.insert(key, vec![value as u8; words.byte()? as usize * 4].as_slice()).ok()?;
            }
            _ => {
                let mut t = txn.open_table(TableDefinition::<u64, ()>::new("orphans")).ok()?;
                t.insert(key, ()).ok()?;
                let mut t = txn.open_table(TableDefinition::<&str, u64>::new("counters")).ok()?;
                t.insert(["next_inode", "inodes_used"][second as usize % 2], value).ok()?;
            }
        }
        txn.set_quick_repair(true);
        txn.commit().ok()
    };
    // A damaged database that gives up here would give up for everybody; a fuzzer's own hook aborts at panics that are not
    // guarded.
    guard("changing a row", || Ok(change())).ok().flatten()
}

fn open(disk: Arc<MemoryDisk>) -> Result<Fs, mounted::MountError> {
    let options = Options { read: ReadMode::Copy, threads: 1, slabs: 1, ..Options::default() };
    mounted::open_on(disk, &options)
}

fn make(fs: &Fs, parent: u64, name: &str, mode: u32, target: Option<&[u8]>) -> Answer<u64> {
    let (caller, name) = (Caller::default(), name.as_bytes());
    let ino = fs
        .make(&Make { caller, parent, name, mode, umask: 0, rdev: 0, target, security: &[] })?
        .ino;
    fs.forget(ino, 1);
    Ok(ino)
}

fn write(fs: &Fs, ino: u64, offset: u64, len: usize) -> Answer<()> {
    let args =
        WriteArgs { ino, offset, direct: false, append: false, cached: false, kill_suidgid: false };
    fs.write(&args, &stamps(ino, offset, len)).map(drop)
}

/// What a file holds: its number and the offset, over and over.
fn stamps(ino: u64, offset: u64, len: usize) -> Vec<u8> {
    let words = offset / 16..(offset + len as u64).div_ceil(16);
    let all = words.flat_map(|word| [ino.to_le_bytes(), (16 * word).to_le_bytes()].concat());
    all.skip((offset % 16) as usize).take(len).collect()
}

/// Fails when `bytes`, read at `offset` of a file, are anything but its own and zeros.
fn check_own(ino: u64, offset: u64, bytes: &[u8]) {
    let own = stamps(ino, offset, bytes.len());
    let foreign = bytes.iter().zip(&own).position(|(byte, own)| *byte != 0 && byte != own);
    assert_eq!(foreign, None, "inode {ino} shows what is not its own, from byte {offset} on");
}

fn fill(fs: &Fs) -> Answer<()> {
    for d in 0..2 {
        let dir = make(fs, ROOT, &format!("dir{d}"), libc::S_IFDIR | 0o755, None)?;
        for i in 0..8 {
            let ino = make(fs, dir, &format!("file{i}"), libc::S_IFREG | 0o644, None)?;
            write(fs, ino, 0, 3000 * i)?;
        }
        make(fs, dir, "sub", libc::S_IFDIR | 0o755, None)?;
        make(fs, dir, "link", libc::S_IFLNK | 0o777, Some(b"file1"))?;
        let sparse = make(fs, dir, "sparse", libc::S_IFREG | 0o600, None)?;
        write(fs, sparse, 1 << 20, 5000)?;
        fs.setxattr(Caller::default(), sparse, b"user.about", b"sparse", 0)?;
    }
    Ok(())
}

/// Walks, reads and writes a little of everything; errors are fine. With `is_judged`, bytes are
/// checked to be the file's own.
fn use_all(fs: &Fs, is_judged: bool) {
    let (mut todo, mut seen) = (vec![ROOT], 0);
    while let Some(dir) = todo.pop() {
        let mut entries = Vec::new();
        let _ = fs.readdir(dir, 0, |entry| {
            entries.push(entry.clone());
            entries.len() > 100
        });
        for entry in entries.into_iter().filter(|e| e.name != b"." && e.name != b"..") {
            seen += 1;
            if seen > 200 {
                return;
            }
            if entry.kind == libc::DT_DIR {
                todo.push(entry.ino);
            }
            use_one(fs, entry.ino, is_judged);
        }
    }
}

fn use_one(fs: &Fs, ino: u64, is_judged: bool) {
    let Ok(entry) = fs.getattr(ino) else { return };
    let caller = Caller::default;
    let _ = (fs.readlink(ino), fs.listxattr(caller(), ino));
    let _ = fs.getxattr(ino, b"user.about");
    if entry.attr.mode & libc::S_IFMT == libc::S_IFREG {
        for offset in [0, 1 << 20, entry.attr.size.saturating_sub(100)] {
            let args = ReadArgs { ino, offset, len: 16 << 10, direct: false, splice: false };
            let read = fs.read_prepare(&args, None).and_then(|r| r.apply(fs));
            if let Ok(Body::Bytes(bytes)) = read.and_then(|r| r.pipe(fs)).map(|ready| ready.body)
                && is_judged
            {
                check_own(ino, offset, bytes.as_slice());
            }
        }
        let _ = write(fs, ino, 2000, 3000);
        let _ = fs.setattr(ino, &SetAttr { size: Some(1000), ..SetAttr::default() });
    } else {
        let _ = make(fs, ino, "new", libc::S_IFREG | 0o644, None);
    }
}
