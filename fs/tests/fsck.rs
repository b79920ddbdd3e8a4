//! `inflight fsck`: what it promises about clean, crashed and damaged images.

mod images;

use images::{
    COUNTERS, EXTENTS, GROUPS, INODES, Image, NAMES, ORPHANS, TARGETS, XATTRS, file, make, open,
    read, stamped, walk,
};
use inflight::fsck::{Findings, Outcome};
use inflight::image::BLOCK;
use inflight::image::mkfs::ROOT;
use inflight::image::store::Recovery;
use inflight::image::superblock::{SECOND, Superblock};
use inflight::image::tables::{name_hash, name_key, name_value};
use inflight::mounted;
use redb::{ReadableTable as _, WriteTransaction};
use std::process::Command;

fn texts(findings: &Findings) -> Vec<String> {
    findings.list.iter().map(ToString::to_string).collect()
}

#[test]
fn a_clean_image_is_clean_and_neither_check_nor_repair_writes_it() {
    let image = Image::with_content();
    let before = image.bytes();
    for repair in [false, true] {
        let report = image.fsck(repair);
        assert_eq!(texts(&report.found), [""; 0]);
        assert_eq!(report.outcome, Outcome::Clean);
        assert!(!report.is_modified());
        assert!(report.inodes > 250 && report.blocks_used > 1000);
    }
    assert!(image.bytes() == before, "not one byte changed");
}

/// What the disk holds at any moment between two commits must be clean: that is all a crash needs.
#[test]
fn a_crash_at_any_moment_leaves_an_image_without_errors() {
    let image = Image::with_content();
    let fs = image.open(false).expect("open");
    let mut crashed = vec![image.bytes()];
    for round in 0..12 {
        let dir =
            make(&fs, ROOT, &format!("r{round}"), libc::S_IFDIR | 0o755, None).expect("mkdir");
        for i in 0..25 {
            file(&fs, dir, &format!("f{i}"), 3000 * (i % 7)).expect("file");
        }
        fs.unlink(dir, b"f3").expect("unlink");
        crashed.push(image.bytes());
        let recovery = if round % 2 == 0 { Recovery::Walk } else { Recovery::Quick };
        fs.volume().commit(recovery).expect("commit");
        crashed.push(image.bytes());
    }
    mounted::close(&fs).expect("close");
    for (i, bytes) in crashed.iter().enumerate() {
        let copy = Image::of(bytes);
        let report = copy.fsck(false);
        assert_eq!(report.outcome, Outcome::Clean, "state {i}: {:?}", texts(&report.found));
        assert!(copy.bytes() == *bytes, "state {i}: a check writes nothing");
        let fs = copy.open(true).expect("a read-only mount");
        let found = walk(&fs);
        let ino = found["/dir0/file8"];
        assert_eq!(read(&fs, ino, 0, 1 << 20).expect("read"), stamped(ino, 0, 1000 + 4096 * 8));
        assert!(make(&fs, ROOT, "new", libc::S_IFREG | 0o644, None).is_err());
        mounted::close(&fs).expect("close");
        assert!(copy.bytes() == *bytes, "state {i}: a read-only mount writes nothing");
        let fs = copy.open(false).expect("a mount after a crash");
        mounted::close(&fs).expect("close");
        assert_eq!(texts(&copy.fsck(false).found), [""; 0], "state {i}: clean after a mount");
    }
}

#[test]
fn an_orphan_is_a_note_and_repair_reclaims_it() {
    let image = Image::with_content();
    let fs = image.open(false).expect("open");
    let ino = fs.lookup(walk(&fs)["/dir1"], b"file8").expect("lookup").ino;
    fs.unlink(walk(&fs)["/dir1"], b"file8").expect("unlink while known");
    fs.volume().commit(Recovery::Quick).expect("commit");
    let copy = Image::of(&image.bytes());
    mounted::close(&fs).expect("close");
    let report = copy.fsck(false);
    assert_eq!(report.outcome, Outcome::Clean);
    let note = format!("inode {ino}: was open without a name when the image was last used");
    assert!(texts(&report.found).contains(&note), "{:?}", texts(&report.found));
    let repaired = copy.fsck(true);
    assert_eq!(repaired.outcome, Outcome::Clean);
    assert_eq!(texts(repaired.left.as_ref().expect("written")), [""; 0]);
    assert_eq!(repaired.inodes, report.inodes);
}

#[test]
fn a_damaged_or_older_superblock_is_rewritten_from_the_other_one() {
    let image = Image::with_content();
    let (good, sb) = (image.bytes(), image.superblock());
    let second = (SECOND * BLOCK) as usize;
    for (at, object) in [(100, "first superblock"), (second + 100, "second superblock")] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        image.restore(&bytes);
        let report = image.fsck(false);
        assert_eq!(report.outcome, Outcome::Uncorrected);
        assert_eq!(
            texts(&report.found),
            [format!("{object}: damaged superblock (checksum does not match)")]
        );
        assert!(image.bytes() == bytes, "a check writes nothing");
        assert_eq!(image.fsck(true).outcome, Outcome::Corrected);
        assert_eq!(texts(&image.fsck(false).found), [""; 0]);
    }
    let older = Superblock { sequence: sb.sequence - 1, ..sb };
    let mut bytes = good;
    bytes[..BLOCK as usize].copy_from_slice(&older.encode());
    image.restore(&bytes);
    let report = image.fsck(true);
    assert_eq!(texts(&report.found), ["first superblock: is older than the other one"]);
    assert_eq!(texts(&image.fsck(false).found), [""; 0]);
}

#[test]
fn a_cut_image_is_reported_and_never_written() {
    let image = Image::with_content();
    let bytes = image.bytes();
    image.restore(&bytes[..bytes.len() - (1 << 20)]);
    let before = image.bytes();
    let report = image.fsck(true);
    assert_eq!(report.outcome, Outcome::Uncorrected);
    assert!(texts(&report.found).iter().any(|t| t.contains("it was cut")), "{report:?}");
    assert!(!report.is_modified() && image.bytes() == before);
    let file = std::fs::File::options().write(true).open(image.path()).expect("open");
    file.set_len(bytes.len() as u64).expect("extend");
    // Only free blocks were cut, and neither superblock lies there.
    assert_eq!(image.fsck(true).outcome, Outcome::Clean);
}

/// Damages a good image, and expects that a check finds `expect`, that it writes nothing, and that
/// repair leaves nothing.
fn damaged(image: &Image, good: &[u8], expect: &str, damage: impl FnOnce(&WriteTransaction)) {
    image.restore(good);
    image.edit(damage);
    let before = image.bytes();
    let report = image.fsck(false);
    let found = texts(&report.found);
    assert!(found.iter().any(|t| t.contains(expect)), "wanted '{expect}', found {found:#?}");
    assert_eq!(report.outcome, Outcome::Uncorrected, "{expect}");
    assert!(image.bytes() == before, "{expect}: a check writes nothing");
    let repaired = image.fsck(true);
    let left = texts(repaired.left.as_ref().expect("written"));
    assert_eq!(left, [""; 0], "{expect}: nothing is left");
    assert_eq!(repaired.outcome, Outcome::Corrected, "{expect}");
    let fs = image.open(false).expect("a repaired image mounts");
    walk(&fs);
    mounted::close(&fs).expect("close");
}

/// The image that the tests below damage, its bytes, and its inode numbers by path.
fn subject() -> (Image, Vec<u8>, std::collections::HashMap<String, u64>) {
    let image = Image::with_content();
    let fs = open(&image.path(), true).expect("open");
    let found = walk(&fs);
    mounted::close(&fs).expect("close");
    let bytes = image.bytes();
    (image, bytes, found)
}

fn change_row(txn: &WriteTransaction, ino: u64, at: usize, bytes: &[u8]) {
    let mut table = txn.open_table(INODES).expect("table");
    let mut row = table.get(ino).expect("get").expect("there").value().to_vec();
    row[at..at + bytes.len()].copy_from_slice(bytes);
    table.insert(ino, row.as_slice()).expect("insert");
}

/// Where fields lie in a row of `inodes`.
const MODE: usize = 0;
const NLINK: usize = 4;
const NANOS: usize = 36;
const SIZE: usize = 56;
const BLOCKS: usize = 64;
const PARENT: usize = 72;

#[test]
fn damaged_inodes_are_found_and_repaired() {
    let (image, good, at) = subject();
    let (a, dir, link) = (at["/dir0/file8"], at["/dir0"], at["/dir0/symlink"]);
    let row = |ino: u64, field: usize, value: u64, len: usize| {
        move |txn: &WriteTransaction| change_row(txn, ino, field, &value.to_le_bytes()[..len])
    };
    damaged(&image, &good, "its mode 0o30644 is impossible", row(a, MODE, 0o30644, 4));
    damaged(&image, &good, "has link count 9, should be 1", row(a, NLINK, 9, 4));
    damaged(&image, &good, "has link count 0, should be 3", row(dir, NLINK, 0, 4));
    damaged(&image, &good, "atime has 4000000000 ns", row(a, NANOS, 4_000_000_000, 4));
    damaged(&image, &good, "has the size 18446744073709551615", row(a, SIZE, u64::MAX, 8));
    damaged(&image, &good, "counts 5 entries, has 43", row(dir, SIZE, 5, 8));
    damaged(&image, &good, "counts 77 blocks, has 9", row(a, BLOCKS, 77, 8));
    damaged(&image, &good, "has the parent 1, is in", row(at["/dir0/sub"], PARENT, 1, 8));
    damaged(&image, &good, "has size 3, its target 5 bytes", row(link, SIZE, 3, 8));
    damaged(&image, &good, "its row is malformed", |txn| {
        txn.open_table(INODES).expect("table").insert(a, &b"short"[..]).expect("insert");
    });
    damaged(&image, &good, "(the root directory): is missing", |txn| {
        txn.open_table(INODES).expect("table").remove(ROOT).expect("remove");
    });
    damaged(&image, &good, "is a symlink without a target", |txn| {
        txn.open_table(TARGETS).expect("table").remove(link).expect("remove");
    });
    damaged(&image, &good, "has a symlink's target and is none", |txn| {
        txn.open_table(TARGETS).expect("table").insert(a, &b"x"[..]).expect("insert");
    });
    damaged(&image, &good, "has attributes and does not exist", |txn| {
        let mut table = txn.open_table(XATTRS).expect("table");
        table.insert((1 << 40, &b"user.x"[..]), &b"y"[..]).expect("insert");
    });
}

#[test]
fn damaged_names_are_found_and_repaired() {
    let (image, good, at) = subject();
    let key = image.superblock().hash_key;
    let (dir, sub, a) = (at["/dir0"], at["/dir0/sub"], at["/dir0/file8"]);
    let name = |parent: u64, name: &[u8]| name_key(parent, name_hash(&key, name), name);
    let put = |parent: u64, text: &'static [u8], ino: u64, kind: u8| {
        let key = name(parent, text);
        move |txn: &WriteTransaction| {
            let mut table = txn.open_table(NAMES).expect("table");
            table.insert(key.as_slice(), name_value(ino, kind).as_slice()).expect("insert");
        }
    };
    damaged(&image, &good, "is for inode 999999", put(dir, b"x", 999_999, 8));
    damaged(&image, &good, "which does not exist", put(777_777, b"x", a, 8));
    damaged(&image, &good, "which is no directory", put(a, b"x", a, 8));
    damaged(&image, &good, "says type 4, inode", put(dir, b"file8", a, 4));
    damaged(&image, &good, "leads back to the root directory", put(dir, b"x", ROOT, 4));
    damaged(&image, &good, "one name too many for directory", put(ROOT, b"x", sub, 4));
    damaged(&image, &good, "is no possible name", put(dir, b"a/b", a, 8));
    damaged(&image, &good, "is filed under a wrong hash", |txn| {
        let mut table = txn.open_table(NAMES).expect("table");
        let wrong = name_key(dir, 12345, b"file8");
        table.remove(name(dir, b"file8").as_slice()).expect("remove");
        table.insert(wrong.as_slice(), name_value(a, 8).as_slice()).expect("insert");
    });
    damaged(&image, &good, "is malformed", |txn| {
        let mut table = txn.open_table(NAMES).expect("table");
        table.insert(&b"abc"[..], &b"d"[..]).expect("insert");
    });
}

#[test]
fn what_is_unreachable_moves_to_lost_and_found() {
    let (image, good, at) = subject();
    let key = image.superblock().hash_key;
    let (dir, sub, a) = (at["/dir0"], at["/dir0/sub"], at["/dir0/file8"]);
    let name = |parent: u64, name: &[u8]| name_key(parent, name_hash(&key, name), name);
    let lost = |ino: u64| {
        let fs = image.open(true).expect("open");
        let found = walk(&fs);
        mounted::close(&fs).expect("close");
        assert_eq!(found.get(&format!("/lost+found/#{ino}")), Some(&ino));
        found
    };
    damaged(&image, &good, "has no name", |txn| {
        let mut table = txn.open_table(NAMES).expect("table");
        table.remove(name(dir, b"file8").as_slice()).expect("remove");
    });
    lost(a);
    damaged(&image, &good, "only leads to itself", |txn| {
        let mut table = txn.open_table(NAMES).expect("table");
        table.remove(name(ROOT, b"dir0").as_slice()).expect("remove");
        let up = name_value(dir, libc::DT_DIR);
        table.insert(name(sub, b"up").as_slice(), up.as_slice()).expect("insert");
    });
    let found = lost(dir);
    assert_eq!(found[&format!("/lost+found/#{dir}/sub")], sub, "the tree below comes along");
    damaged(&image, &good, "is listed as an orphan, but has a name", |txn| {
        txn.open_table(ORPHANS).expect("table").insert(a, ()).expect("insert");
    });
    damaged(&image, &good, "is listed as an orphan and does not exist", |txn| {
        txn.open_table(ORPHANS).expect("table").insert(55_555, ()).expect("insert");
    });
}

#[test]
fn damaged_extents_and_bitmaps_are_found_and_repaired() {
    let (image, good, at) = subject();
    let (a, b, dir) = (at["/dir0/file7"], at["/dir0/file8"], at["/dir0"]);
    let total = image.superblock().total_blocks;
    let put = |ino: u64, logical: u64, start: u64, blocks: u64| {
        move |txn: &WriteTransaction| {
            let mut table = txn.open_table(EXTENTS).expect("table");
            table.insert((ino, logical), (start, blocks)).expect("insert");
        }
    };
    damaged(&image, &good, "are outside the image", put(a, 500, total, 1));
    damaged(&image, &good, "are outside the image", put(a, 500, u64::MAX - 1, 5));
    damaged(&image, &good, "a length of 0 blocks is impossible", put(a, 500, total - 20, 0));
    damaged(&image, &good, "belong to the filesystem's own structures", put(a, 500, 1, 1));
    damaged(&image, &good, "the inode is no regular file", put(dir, 0, total - 20, 1));
    damaged(&image, &good, "the inode does not exist", put(1 << 40, 0, total - 20, 1));
    damaged(&image, &good, "it overlaps the extent before", put(a, 2, total - 20, 1));
    damaged(&image, &good, "are in files and marked free", put(a, 500, total - 9, 2));
    damaged(&image, &good, "belong to inode", |txn| {
        let mut table = txn.open_table(EXTENTS).expect("table");
        let theirs = table.get((a, 0)).expect("get").expect("there").value();
        table.insert((b, 0), theirs).expect("insert");
    });
    let fs = image.open(true).expect("open");
    assert_eq!(read(&fs, a, 0, 1 << 20).expect("read"), stamped(a, 0, 1000 + 4096 * 7));
    let rest = read(&fs, b, 0, 1 << 20).expect("read");
    assert!(rest.iter().all(|byte| *byte == 0), "the later claim reads as zeros");
    mounted::close(&fs).expect("close");
    damaged(&image, &good, "are marked used and belong to nothing", |txn| {
        let mut table = txn.open_table(GROUPS).expect("table");
        let mut row = table.get(0).expect("get").expect("there").value().to_vec();
        row[(total as usize - 40) / 8] = 0xff;
        table.insert(0, row.as_slice()).expect("insert");
    });
    damaged(&image, &good, "has no bitmap", |txn| {
        txn.open_table(GROUPS).expect("table").remove(0).expect("remove");
    });
    damaged(&image, &good, "lies beyond the end of the image", |txn| {
        txn.open_table(GROUPS).expect("table").insert(99, &[0; 1024][..]).expect("insert");
    });
}

#[test]
fn wrong_counters_and_missing_tables_are_found_and_repaired() {
    let (image, good, _) = subject();
    let set = |name: &'static str, n: u64| {
        move |txn: &WriteTransaction| {
            txn.open_table(COUNTERS).expect("table").insert(name, n).expect("insert");
        }
    };
    damaged(&image, &good, "counter next_inode: is 3", set("next_inode", 3));
    damaged(&image, &good, "counter inodes_used: is 3", set("inodes_used", 3));
    damaged(&image, &good, "counter inodes_frozen: is 2", set("inodes_frozen", 2));
    damaged(&image, &good, "counter next_inode: is missing", |txn| {
        txn.open_table(COUNTERS).expect("table").remove("next_inode").expect("remove");
    });
    damaged(&image, &good, "table xattrs", |txn| {
        txn.delete_table(XATTRS).expect("delete");
    });
}

fn inflight(args: &[&str]) -> (Option<i32>, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_inflight")).args(args).output().expect("run");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (out.status.code(), text(out.stdout), text(out.stderr))
}

#[test]
fn the_command_has_the_exit_codes_of_fsck() {
    let (image, good, at) = subject();
    let path = image.path();
    let path = path.to_str().expect("UTF-8");
    let (code, out, _) = inflight(&["fsck", path]);
    assert_eq!(code, Some(0));
    assert!(out.starts_with(&format!("{path}: clean, ")) && out.lines().count() == 1, "{out}");
    image.edit(|txn| change_row(txn, at["/dir0/file8"], NLINK, &[7, 0, 0, 0]));
    let (code, out, _) = inflight(&["fsck", path]);
    assert_eq!(code, Some(4));
    assert!(out.contains("has link count 7, should be 1 [repair: the count is set]"), "{out}");
    let (code, out, _) = inflight(&["fsck", "--json", path]);
    assert_eq!(code, Some(4));
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["found"]["errors"], 1);
    assert_eq!(inflight(&["fsck", "--repair", path]).0, Some(1));
    assert_eq!(inflight(&["fsck", path]).0, Some(0));
    assert_eq!(inflight(&["fsck", "--nonsense", path]).0, Some(16));
    assert_eq!(inflight(&["fsck", "/nonexistent/image"]).0, Some(8));
    image.restore(&vec![0; good.len()]);
    let (code, _, err) = inflight(&["fsck", path]);
    assert_eq!(code, Some(8));
    assert!(err.contains("not an Inflight image"), "{err}");
}

#[test]
fn dump_shows_the_superblock_and_any_inode_and_writes_nothing() {
    let (image, good, at) = subject();
    let path = image.path();
    let path = path.to_str().expect("UTF-8");
    let (code, out, err) = inflight(&["dump", path]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("size       6144 blocks of 4096 bytes\n"), "{out}");
    let (_, out, _) = inflight(&["dump", "--json", path, "/dir0/sub/sparse"]);
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["ino"], at["/dir0/sub/sparse"]);
    assert_eq!(json["attr"]["size"], 3 << 20);
    let extents = json["extents"].as_array().expect("a list");
    assert_eq!(
        (extents[1]["logical"].as_u64(), extents[1]["blocks"].as_u64()),
        (Some(256), Some(18))
    );
    assert!(extents.iter().any(|e| e["unwritten"] == true));
    let (_, out, _) = inflight(&["dump", path, "dir0"]);
    assert!(out.contains("entries    43\n") && out.contains("dir      sub\n"), "{out}");
    let (code, _, err) = inflight(&["dump", path, "/dir0/none"]);
    assert_eq!((code, err.contains("has no /dir0/none")), (Some(1), true), "{err}");
    assert!(image.bytes() == good, "not one byte changed");
}

#[test]
fn an_image_in_use_is_refused_and_the_holder_named() {
    let image = Image::empty();
    let fs = image.open(false).expect("open");
    // Held by this process and not mounted: the wait is bounded, and too long for a test.
    let file = std::fs::File::open(image.path()).expect("open");
    let wait = std::time::Duration::ZERO;
    let held = inflight::image::lock::ImageLock::acquire(&file, &image.path(), wait);
    let text = held.expect_err("held").to_string();
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    mounted::close(&fs).expect("close");
    assert_eq!(image.fsck(false).outcome, Outcome::Clean);
}
