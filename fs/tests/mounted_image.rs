//! `fsck` and `dump` of an image that somebody has mounted.

mod common;
mod images;

use common::{Place, can_mount, inflight, ok, refused, text};
use inflight::disk::{Disk, MemoryDisk, Over};
use inflight::fsck::{self, Outcome};
use inflight::image::BLOCK;
use inflight::image::mkfs::{self, MkfsOptions, ROOT};
use inflight::image::snapshot::Snapshot;
use inflight::image::store::Recovery;
use inflight::ops::Fs;
use inflight::options::{Options, ReadMode};
use serde_json::Value;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

#[test]
fn the_last_commit_of_a_mounted_image_is_shown() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let image = place.image();
    let mount = place.mount("", &[]);
    let dir = mount.dir.to_str().expect("path").to_owned();
    fs::create_dir(mount.path("d")).expect("mkdir");
    fs::write(mount.path("d/f"), [5; 50_000]).expect("write");
    File::open(mount.path("d/f")).expect("open").sync_all().expect("fsync");
    let said = ok(&["fsck", image]);
    assert!(
        said.contains(&format!("mounted on {dir}, its last commit: clean, 3 inodes")),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "no notes: {said}");
    let report: Value = serde_json::from_str(&ok(&["fsck", "--json", image])).expect("JSON");
    assert_eq!((&report["outcome"], &report["mounted_on"]), (&"clean".into(), &dir[..].into()));
    let shown = ok(&["dump", image]);
    assert!(shown.contains(&format!("mounted on {dir}; this is its last commit")), "{shown}");
    let file: Value = serde_json::from_str(&ok(&["dump", "--json", image, "/d/f"])).expect("JSON");
    let ino = fs::metadata(mount.path("d/f")).expect("stat").ino();
    assert_eq!((&file["ino"], &file["attr"]["size"]), (&ino.into(), &50_000.into()));
    let blocks = |extent: &Value| extent["blocks"].as_u64().expect("a number");
    let extents = file["extents"].as_array().expect("extents");
    assert_eq!(extents.iter().map(blocks).sum::<u64>(), 13);
    assert!(ok(&["dump", image, "/d/f"]).contains("this is its last commit"));
    assert!(refused(1, &["dump", image, "/d/none"]).contains("has no /d/none"));
    assert!(refused(8, &["fsck", "--repair", image]).contains(&format!("mounted on {dir}")));
    mount.umount();
    assert!(!ok(&["fsck", image]).contains("mounted"));
    assert!(!ok(&["dump", image]).contains("mounted"));
}

/// Who makes commits all the time does not make an image look damaged.
#[test]
fn what_is_seen_beside_commits_is_one_of_them() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    let image = place.image();
    let mount = place.mount("", &[]);
    let (over, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut clean = 0;
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (mount, over, rounds) = (&mount, &over, &rounds);
            scope.spawn(move || {
                for round in 0_u64.. {
                    if over.load(SeqCst) {
                        return;
                    }
                    let path = mount.path(&format!("{worker}.{}", round % 50));
                    let _ = fs::remove_file(&path);
                    let file = File::create(&path).expect("create");
                    file.write_all_at(&common::pattern(20_000, round), 0).expect("write");
                    file.sync_all().expect("fsync");
                    rounds.fetch_add(1, SeqCst);
                }
            });
        }
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..20 {
                let out = inflight(&["fsck", image]);
                let said = text(&out.stdout) + &text(&out.stderr);
                match out.status.code() {
                    Some(0) => clean += 1,
                    Some(8) => assert!(said.contains("commits follow each other"), "{said}"),
                    _ => panic!("{}: {said}", out.status),
                }
                let out = inflight(&["dump", image, "/"]);
                let said = text(&out.stderr);
                assert!(out.status.success() || said.contains("commits follow"), "{said}");
            }
        }));
        over.store(true, SeqCst);
        looked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let rounds = rounds.load(SeqCst);
    println!("{clean} of 20 looks beside {rounds} commits");
    assert!(clean > 0 && rounds > 0);
    mount.umount();
    ok(&["fsck", image]);
}

#[test]
fn damage_is_found_and_nothing_is_written() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let image = place.image();
    let mount = place.mount("", &[]);
    for n in 0..300 {
        fs::write(mount.path(&format!("file {n}")), b"content").expect("write");
    }
    mount.umount();
    let mount = place.mount("ro", &[]);
    let before = fs::read(image).expect("read");
    ok(&["fsck", image]);
    ok(&["dump", image, "/file 7"]);
    assert!(fs::read(image).expect("read") == before, "it was written to");
    let overview: Value = serde_json::from_str(&ok(&["dump", "--json", image])).expect("JSON");
    let start = overview["superblock"]["chunks"][0]["start"].as_u64().expect("a block");
    let file = File::options().write(true).open(image).expect("open");
    // Checksums and the header come first; then, somewhere, what is in use.
    let said = (start + 2..start + 200).find_map(|block| {
        let at = (block * 4096 + 100) as usize;
        file.write_all_at(&[!before[at]], at as u64).expect("write");
        let out = inflight(&["fsck", image]);
        match out.status.code() {
            Some(0) => None,
            Some(4) => Some(text(&out.stdout)),
            _ => panic!("{}: {}", out.status, text(&out.stderr)),
        }
    });
    let said = said.expect("no block is in use");
    assert!(said.contains("unmount it, and repair") || said.contains("not all can be"), "{said}");
    file.write_all_at(&before, 0).expect("write");
    mount.umount();
}

/// A disk on which something happens before one of its reads.
struct Interrupted {
    disk: Arc<dyn Disk>,
    reads: AtomicU64,
    at: u64,
    event: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupted").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Over for Interrupted {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }

    fn is_writable(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.reads.fetch_add(1, SeqCst) == self.at {
            (self.event)();
        }
        self.disk.read(offset, out)
    }
}

/// Makes a file, takes one away, and commits that or not.
fn change(fs: &Fs, n: u64, commits: bool) {
    images::file(fs, ROOT, &format!("file {n}"), 9000).expect("file");
    if n >= 20 {
        fs.unlink(ROOT, format!("file {}", n - 20).as_bytes()).expect("unlink");
    }
    if commits {
        fs.volume().commit_if_changed(Recovery::Walk).expect("commit");
    }
}

/// Changes and commits at every moment of the copying: it is of one commit, or it is made again.
#[test]
fn a_copy_is_of_one_commit() {
    const BLOCKS: u64 = 8192;
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(BLOCKS * BLOCK));
    mkfs::format(&disk, &MkfsOptions::default(), BLOCKS).expect("mkfs");
    let options = Options { read: ReadMode::Copy, threads: 1, slabs: 1, ..Options::default() };
    let fs = Arc::new(inflight::mounted::open_on(disk.clone(), &options).expect("open"));
    let made = Arc::new(AtomicU64::new(0));
    let take = |at: u64, commits: u64| {
        let (fs, made) = (fs.clone(), made.clone());
        let event = move || {
            for _ in 0..commits.max(1) {
                change(&fs, made.fetch_add(1, SeqCst), commits > 0);
            }
        };
        let (disk, event) = (disk.clone(), Box::new(event));
        let during = Arc::new(Interrupted { disk, reads: 0.into(), at, event });
        let snapshot = Snapshot::take(&(during.clone() as Arc<dyn Disk>)).expect("readable");
        (snapshot, during.reads.load(SeqCst))
    };
    (0..30).for_each(|_| change(&fs, made.fetch_add(1, SeqCst), true));
    let (still, reads) = take(u64::MAX, 0);
    assert!(still.is_some() && reads > 5, "{reads} reads");
    let mut again = 0;
    for (at, commits) in (0..reads).flat_map(|at| (0..4).map(move |commits| (at, commits))) {
        let (snapshot, _) = take(at, commits);
        let Some(snapshot) = snapshot else {
            assert!(commits > 0, "nothing was committed, and it is not still");
            again += 1;
            continue;
        };
        let report = fsck::inspect(&(Arc::new(snapshot) as Arc<dyn Disk>)).expect("an image");
        assert_eq!(report.outcome, Outcome::Clean, "{commits} at {at} of {reads}: {report:#?}");
    }
    assert!(again > 10, "{again} of {reads} reads");
    inflight::mounted::close(&fs).expect("close");
}
