//! kill -9 at any moment: the next mount works, fsck says clean, and what was fsynced is there.

mod common;

use common::{Place, can_mount, ok, pattern};
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// A file that was fsynced, with the seed of its contents.
#[derive(Clone, Debug)]
struct Synced {
    name: String,
    len: usize,
    seed: u64,
}

/// Makes, overwrites, renames and removes files until the server dies; returns what was durable.
/// A file counts only while nothing happened to it since its fsync returned.
fn load(
    dir: &Path,
    worker: usize,
    seed: u64,
    stop: &AtomicBool,
    done: &AtomicUsize,
) -> Vec<Synced> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ worker as u64);
    let mut durable: Vec<Synced> = Vec::new();
    let mut number = 0;
    while !stop.load(SeqCst) {
        number += 1;
        let name = format!("w{worker}-{seed}-{number}");
        let synced = Synced { name, len: rng.random_range(1..200_000), seed: rng.next_u64() };
        if write(dir, &synced).is_err() {
            break;
        }
        durable.push(synced);
        done.fetch_add(1, SeqCst);
        if durable.len() > 8 {
            let victim = durable.remove(rng.random_range(0..durable.len()));
            if fs::remove_file(dir.join(&victim.name)).is_err() {
                break;
            }
        }
        // Unsynced noise: what becomes of it is not promised, what it does to others is.
        let _ =
            fs::write(dir.join(format!("noise-{worker}")), pattern(rng.random_range(0..50_000), 1));
        let _ =
            fs::rename(dir.join(format!("noise-{worker}")), dir.join(format!("moved-{worker}")));
    }
    durable
}

fn write(dir: &Path, synced: &Synced) -> std::io::Result<()> {
    let mut file = File::create(dir.join(&synced.name))?;
    file.write_all(&pattern(synced.len, synced.seed))?;
    file.sync_all()
}

#[track_caller]
fn check(dir: &Path, synced: &Synced, seed: u64) {
    let bytes = fs::read(dir.join(&synced.name))
        .unwrap_or_else(|e| panic!("seed {seed}: {} was fsynced and is gone: {e}", synced.name));
    assert_eq!(bytes.len(), synced.len, "seed {seed}: length of {}", synced.name);
    assert!(bytes == pattern(synced.len, synced.seed), "seed {seed}: contents of {}", synced.name);
}

fn round(place: &Place, seed: u64, kept: &mut Vec<Synced>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let options = ["writeback", "nowriteback", "write=direct"][rng.random_range(0..3)];
    let mount = place.mount(options, &[]);
    kept.iter().for_each(|synced| check(&mount.dir, synced, seed));
    for old in kept.drain(..) {
        fs::remove_file(mount.path(&old.name)).expect("old files go");
    }
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    // Through an open directory: once the mount is gone, its path leads to the folder below it.
    let root = File::open(&mount.dir).expect("the root");
    let dir = std::path::PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    let enough = rng.random_range(1..60);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|w| {
                let (dir, stop, done) = (&dir, &stop, &done);
                scope.spawn(move || load(dir, w, seed, stop, done))
            })
            .collect();
        // The moment is counted in operations, not in time.
        while done.load(SeqCst) < enough {
            std::thread::yield_now();
        }
        mount.kill();
        stop.store(true, SeqCst);
        for worker in workers {
            kept.extend(worker.join().expect("a worker"));
        }
    });
    ok(&["fsck", place.image()]);
}

// > A server that is killed at any moment loses nothing that was fsynced, and leaves an image that fsck calls clean.
#[test]
fn a_hundred_kills_under_load_lose_nothing_that_was_fsynced() {
    if !can_mount() {
        return;
    }
    let first: u64 = std::env::var("INFLIGHT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    println!("seeds from {first}; INFLIGHT_SEED={first} runs them again");
    let place = Place::new(512);
    let mut kept = Vec::new();
    for seed in first..first + 100 {
        round(&place, seed, &mut kept);
    }
}

// > A file that was open without a name when the machine stopped is reclaimed at the next mount.
#[test]
fn a_file_without_a_name_is_reclaimed_after_a_kill() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    let mount = place.mount("", &[]);
    fs::write(mount.path("keep"), b"x").expect("write");
    let free = || mount.stat()["space"]["free"].as_u64().expect("a number");
    let before = free();
    let mut file = File::create(mount.path("gone")).expect("create");
    file.write_all(&pattern(8 << 20, 3)).expect("write");
    fs::remove_file(mount.path("gone")).expect("unlink");
    file.sync_all().expect("an unlinked file can be synced");
    assert!(free() < before, "it is open, so it keeps its blocks");
    mount.kill();
    drop(file);
    let mount = place.mount("", &[]);
    let after = mount.stat()["space"]["free"].as_u64().expect("a number");
    assert!(after + 64 >= before, "{after} free blocks after the crash, {before} before");
    mount.umount();
    ok(&["fsck", place.image()]);
}
