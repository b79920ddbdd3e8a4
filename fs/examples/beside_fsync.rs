//! How long a lookup takes alone, and beside a thread that writes and fsyncs without a pause.
//!
//! usage: beside_fsync DIRECTORY [NAMES]
//!
//! Makes an image in DIRECTORY with NAMES files (a million), opens it without a mount and looks names up in an order that
//! the caches do not know. Prints medians and 99th percentiles in microseconds; rounds of both kinds alternate.

use hdrhistogram::Histogram;
use inflight::image::mkfs::{MkfsOptions, ROOT, mkfs};
use inflight::mounted;
use inflight::ops::{Caller, Fs, Make, WriteArgs};
use inflight::options::{Options, ReadMode};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

const ROUNDS: u64 = 5;
const LOOKUPS: u64 = 50_000;

fn make(fs: &Fs, name: &str) -> u64 {
    let caller = Caller { uid: 0, gid: 0, pid: 1 };
    let (name, mode) = (name.as_bytes(), libc::S_IFREG | 0o644);
    let make =
        Make { caller, parent: ROOT, name, mode, umask: 0, rdev: 0, target: None, security: &[] };
    fs.make(&make).expect("make").ino
}

/// Looks names up and adds the time of each, in nanoseconds.
fn lookups(fs: &Fs, names: u64, seed: u64, times: &mut Histogram<u64>) {
    for i in 0..LOOKUPS {
        // A large odd multiplier: neighbours in time are none in the directory.
        let name = format!("file{}", (seed + i).wrapping_mul(2_654_435_761) % names);
        let begun = Instant::now();
        let entry = fs.lookup(ROOT, name.as_bytes()).expect("lookup");
        // Not saturating_record: that ends where the histogram does, at 2 us, and does not make it longer.
        times.record(begun.elapsed().as_nanos() as u64).expect("it grows");
        fs.forget(entry.ino, 1);
    }
}

/// Writes and fsyncs until it is told to stop; gives how often.
fn sync_until(fs: &Fs, log: u64, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    while !stop.load(Relaxed) {
        let offset = count * 4096;
        let write = WriteArgs {
            ino: log,
            offset,
            direct: false,
            append: false,
            cached: false,
            kill_suidgid: false,
        };
        fs.write(&write, &[7; 4096]).expect("write");
        fs.fsync(log, false).expect("fsync");
        count += 1;
    }
    count
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().expect("usage: beside_fsync DIRECTORY [NAMES]");
    let names: u64 = arguments.next().map_or(1_000_000, |n| n.parse().expect("a number"));
    let image = Path::new(&directory).join("beside_fsync.img");
    let options = MkfsOptions { size: Some(4 << 30), force: true, ..Default::default() };
    mkfs(&image, &options).expect("mkfs");
    let options = Options { read: ReadMode::Copy, ..Options::default() };
    let fs = mounted::open(&image, &options).expect("open");
    for i in 0..names {
        make(&fs, &format!("file{i}"));
    }
    let log = make(&fs, "log");
    let (mut alone, mut beside) =
        (Histogram::new(3).expect("a precision"), Histogram::new(3).expect("a precision"));
    let mut syncs = 0;
    for round in 0..ROUNDS {
        lookups(&fs, names, round * 7919, &mut alone);
        let stop = AtomicBool::new(false);
        syncs += std::thread::scope(|scope| {
            let syncer = scope.spawn(|| sync_until(&fs, log, &stop));
            lookups(&fs, names, round * 7919 + 4000, &mut beside);
            stop.store(true, Relaxed);
            syncer.join().expect("the fsync loop")
        });
    }
    let us = |h: &Histogram<u64>, q: f64| h.value_at_quantile(q) as f64 / 1000.0;
    for (what, times) in [("alone", &alone), ("beside fsync", &beside)] {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| us(times, q));
        println!("{what:13} p50 {p50:7.1} us  p99 {p99:7.1} us  p99.9 {p999:8.1} us");
    }
    let ratio = us(&beside, 0.99) / us(&alone, 0.99);
    println!("{syncs} fsyncs meanwhile; p99 beside / alone: {ratio:.2}");
    mounted::close(&fs).expect("close");
    std::fs::remove_file(&image).expect("remove");
}
