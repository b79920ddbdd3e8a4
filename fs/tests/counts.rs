//! Round trips of workloads; system calls, wake-ups and copies of requests; against the bounds of `counts.txt`.

mod bounds;
mod common;
mod copying;

use bounds::{Counts, excess, judge};
use common::{Mount, Place, can_mount, pattern};
use copying::{Within, counted};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Operations of a workload.
const FILES: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests so far, by opcode: two getxattr are the question.
fn requests(mountpoint: &Path) -> Counts {
    let name = std::str::from_utf8(inflight::ops::STAT).expect("a name");
    let report = xattr::get(mountpoint, name).expect("getxattr").expect("a report");
    let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
    let operations = report["operations"].as_object().expect("operations").iter();
    let count = |latency: &serde_json::Value| latency["count"].as_f64().expect("a number");
    operations.map(|(name, latency)| (name.clone(), count(latency))).collect()
}

/// What came between two questions, for each of [`FILES`] operations.
fn between(before: &Counts, after: &Counts) -> Counts {
    let count = |(name, after): (&String, &f64)| {
        let own = if name == "getxattr" { 2.0 } else { 0.0 };
        let count = after - before.get(name).unwrap_or(&0.0) - own;
        (count > 0.0).then(|| (name.clone(), count / FILES as f64))
    };
    after.iter().filter_map(count).collect()
}

fn file(dir: &Path, name: &str, number: usize) -> PathBuf {
    dir.join(format!("{name}{number}"))
}

fn each(dir: &Path, name: &str, run: impl Fn(PathBuf)) {
    (0..FILES).for_each(|number| run(file(dir, name, number)));
}

fn make(dir: &Path) {
    let data = pattern(4096, 1);
    each(dir, "f", |path| fs::write(path, &data).expect("write"));
}

/// A workload: what must be there before, and what is counted.
struct Workload {
    name: &'static str,
    before: fn(&Path),
    run: fn(&Path),
}

const WORKLOADS: &[Workload] = &[
    Workload { name: "create", before: |_| {}, run: make },
    Workload {
        name: "stat",
        before: make,
        run: |dir| each(dir, "f", |path| drop(fs::metadata(path).map(|found| found.len()))),
    },
    Workload {
        name: "list",
        before: make,
        run: |dir| {
            let entries = fs::read_dir(dir).expect("readdir");
            entries.for_each(|entry| assert!(entry.and_then(|e| e.metadata()).is_ok()));
        },
    },
    Workload {
        name: "read",
        before: make,
        run: |dir| each(dir, "f", |path| assert_eq!(fs::read(path).expect("read").len(), 4096)),
    },
    Workload {
        name: "rename",
        before: make,
        run: |dir| each(dir, "f", |path| fs::rename(&path, path.with_extension("g")).expect("mv")),
    },
    Workload {
        name: "unlink",
        before: make,
        run: |dir| each(dir, "f", |path| fs::remove_file(path).expect("unlink")),
    },
    Workload {
        name: "mkdir",
        before: |_| {},
        run: |dir| each(dir, "d", |path| fs::create_dir(path).expect("mkdir")),
    },
    Workload { name: "untar", before: |_| {}, run: untar },
];

/// A tree of 10 directories with 9 files each, one of them a symlink, unpacked by tar(1).
fn untar(dir: &Path) {
    let tree = tempfile::tempdir().expect("a folder");
    for folder in 0..10 {
        let folder = tree.path().join(format!("d{folder}"));
        fs::create_dir(&folder).expect("mkdir");
        (0..8).for_each(|number| {
            fs::write(file(&folder, "f", number), pattern(3000, 1)).expect("write");
        });
        std::os::unix::fs::symlink("f0", folder.join("l")).expect("symlink");
    }
    let tar = |how: &str, from: &Path| {
        let archive = tree.path().join("a.tar");
        let mut command = Command::new("tar");
        command.args(["--exclude=./a.tar", how]).arg(archive).arg("-C").arg(from).arg(".");
        assert!(command.status().expect("tar runs").success());
    };
    tar("-cf", tree.path());
    tar("-xf", dir);
}

// The crate fuser carries less, so the transport is one of our own. The kernel writes back when it likes: what is counted ends
// with syncfs(2), when all of it has come.
fn round_trips(workload: &Workload) -> Counts {
    let place = Place::new(64);
    let mount = place.mount("transport=auto", &[]);
    let dir = mount.path("dir");
    fs::create_dir(&dir).expect("mkdir");
    (workload.before)(&dir);
    mount.umount();
    let mount = place.mount("transport=auto", &[]);
    let before = requests(&mount.dir);
    (workload.run)(&mount.path("dir"));
    File::open(&mount.dir).and_then(|root| Ok(nix::unistd::syncfs(&root)?)).expect("syncfs");
    let after = requests(&mount.dir);
    mount.umount();
    between(&before, &after)
}

#[test]
fn round_trips_of_workloads() {
    if !can_mount() {
        return;
    }
    let above = WORKLOADS
        .iter()
        .flat_map(|workload| excess("round-trips", workload.name, || round_trips(workload)));
    judge(&above.collect::<Vec<_>>());
}

/// strace(1) of every thread of a server.
struct Tracer {
    strace: Child,
    log: PathBuf,
}

impl Tracer {
    /// Attached when the system calls of a request that was sent afterwards are in its log.
    fn attach(mount: &Mount, place: &Place) -> Option<Tracer> {
        let log = place.dir.path().join("strace");
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-o"])
            .arg(&log)
            .args(["-p", &mount.server().to_string()])
            .stderr(Stdio::null())
            .spawn();
        let Ok(strace) = strace else {
            common::lacking("there is no strace");
            return None;
        };
        let mut tracer = Tracer { strace, log };
        let begun = Instant::now();
        // The threads that take requests are the first; the others wait for something else.
        while tracer.calls().is_empty() {
            if tracer.strace.try_wait().expect("wait").is_some() {
                common::lacking("strace cannot attach here");
                return None;
            }
            assert!(begun.elapsed() < PATIENCE, "strace sees nothing");
            fs::metadata(&mount.dir).expect("stat");
        }
        Some(tracer)
    }

    /// System calls that were begun so far, by name.
    fn calls(&self) -> Counts {
        let mut calls = Counts::new();
        for line in fs::read_to_string(&self.log).unwrap_or_default().lines() {
            let call = line.split_whitespace().nth(1).and_then(|call| call.split_once('('));
            if let Some((name, _)) = call.filter(|(name, _)| !name.starts_with(['<', '+', '-'])) {
                *calls.entry(name.to_owned()).or_default() += 1.0;
            }
        }
        calls
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.strace.id() as i32),
            nix::sys::signal::Signal::SIGINT,
        );
        let _ = self.strace.wait();
    }
}

/// Opens the first file, and does `run` with it again and again.
fn with_one(dir: &Path, flags: i32, run: impl Fn(&File)) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    let one = options.read(true).write(true).custom_flags(flags).open(file(dir, "f", 0));
    let one = one.expect("open");
    (0..FILES).for_each(|_| run(&one));
}

/// Makes requests in a folder with files.
type Kind = fn(&Path);

/// Requests of one kind, [`FILES`] of them, on files of 4 KiB.
const KINDS: &[(&str, Kind)] = &[
    ("getattr", |dir| each(dir, "f", |_| drop(fs::metadata(dir).map(|found| found.len())))),
    ("lookup", |dir| each(dir, "none", |path| assert!(!path.exists()))),
    ("create", |dir| each(dir, "new", |path| drop(File::create_new(path).expect("create")))),
    ("read-direct", |dir| {
        with_one(dir, libc::O_DIRECT, |one| {
            one.read_exact_at(&mut [0; 4096], 0).expect("read");
        });
    }),
    ("read-cached", |dir| {
        with_one(dir, 0, |one| {
            let forget = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            posix_fadvise(one, 0, 0, forget).expect("fadvise");
            one.read_exact_at(&mut [0; 4096], 0).expect("read");
        });
    }),
    ("write-direct", |dir| {
        with_one(dir, libc::O_DIRECT, |one| one.write_all_at(&[7; 4096], 0).expect("write"));
    }),
    ("write-cached", |dir| {
        with_one(dir, 0, |one| one.write_all_at(&[8; 4096], 0).expect("write"));
    }),
    ("truncate", |dir| with_one(dir, 0, |one| one.set_len(0).expect("ftruncate"))),
    // Everything but a flush of the image is done.
    ("flush", |dir| with_one(dir, 0, |one| one.sync_data().expect("fdatasync"))),
    // Half of the requests change something, so that the other half commit.
    ("change-and-sync", |dir| {
        with_one(dir, 0, |one| {
            let mode = one.metadata().expect("fstat").permissions();
            one.set_permissions(mode).and_then(|()| one.sync_all()).expect("fsync");
        });
    }),
];

fn system_calls(transport: &str, kind: Kind) -> Option<Counts> {
    let place = Place::new(64);
    let mount = place.mount(&format!("transport={transport},nowriteback,attr_timeout=0"), &[]);
    let dir = mount.path("dir");
    fs::create_dir(&dir).expect("mkdir");
    make(&dir);
    let tracer = Tracer::attach(&mount, &place)?;
    let (calls, requests_before) = (tracer.calls(), requests(&mount.dir));
    kind(&dir);
    let (requests_after, after) = (requests(&mount.dir), tracer.calls());
    drop(tracer);
    mount.umount();
    // For each request, whatever else the kernel had to ask for.
    let requests: f64 = between(&requests_before, &requests_after).values().sum();
    let count = |(name, count): (&String, &f64)| {
        let count = count - calls.get(name).unwrap_or(&0.0);
        (name.clone(), count / (requests * FILES as f64))
    };
    Some(after.iter().map(count).collect())
}

/// How often the server's threads have slept until now (voluntary_ctxt_switches of proc_pid_status(5)). Threads that are gone,
/// and those that the kernel has for its rings (`iou-wrk`), are among them.
fn sleeps(mount: &Mount) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", mount.server())).expect("its threads");
    let status = |task: std::io::Result<fs::DirEntry>| {
        fs::read_to_string(task.ok()?.path().join("status")).ok()
    };
    let count = |status: String| {
        let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse::<f64>().ok())
    };
    tasks.filter_map(status).filter_map(count).sum()
}

fn wake_ups(kind: Kind) -> Counts {
    let place = Place::new(64);
    let mount = place.mount("transport=uring,nowriteback,attr_timeout=0", &[]);
    let dir = mount.path("dir");
    fs::create_dir(&dir).expect("mkdir");
    make(&dir);
    // Its threads are there.
    kind(&dir);
    let (before, requests_before) = (sleeps(&mount), requests(&mount.dir));
    kind(&dir);
    let (requests_after, after) = (requests(&mount.dir), sleeps(&mount));
    mount.umount();
    let requests: f64 = between(&requests_before, &requests_after).values().sum();
    Counts::from([("sleeps".to_owned(), (after - before) / (requests * FILES as f64))])
}

#[test]
fn wake_ups_of_requests() {
    if !can_mount() {
        return;
    }
    let kinds = KINDS.iter().filter(|(name, _)| !name.starts_with("create"));
    let above = kinds.flat_map(|(name, kind)| excess("wake-ups-uring", name, || wake_ups(*kind)));
    judge(&above.collect::<Vec<_>>());
}

#[test]
fn system_calls_of_requests() {
    if !can_mount() {
        return;
    }
    let mut above = Vec::new();
    for transport in ["dev", "uring"] {
        for (name, kind) in KINDS {
            let (mut is_traced, kind_of_count) = (true, format!("system-calls-{transport}"));
            above.extend(excess(&kind_of_count, name, || {
                let calls = system_calls(transport, *kind);
                is_traced &= calls.is_some();
                calls.unwrap_or_default()
            }));
            if !is_traced {
                return;
            }
        }
    }
    judge(&above);
}

/// Bytes that the server copies for each request, on files of 4 KiB. What the kernel copies is in its system calls: once
/// between the client and the server's buffers, once between those and the image's page cache.
fn bytes_copied(transport: &str, kind: Kind) -> Counts {
    let place = Place::new(64);
    let dir = place.dir.path().join("m");
    let options = format!("transport={transport},nowriteback,attr_timeout=0");
    let mount = Within::new(&place.image, &dir, &options);
    let dir = mount.dir.join("dir");
    fs::create_dir(&dir).expect("mkdir");
    make(&dir);
    let before = requests(&mount.dir);
    let (data, values) = counted(|| kind(&dir));
    let after = requests(&mount.dir);
    drop(mount);
    let requests: f64 = between(&before, &after).values().sum();
    let each = |bytes: u64| bytes as f64 / (requests * FILES as f64);
    Counts::from([("data".to_owned(), each(data)), ("values".to_owned(), each(values))])
}

// The counters are the whole process's.
#[test]
fn bytes_copied_for_requests() {
    if !can_mount() {
        return;
    }
    let mut above = Vec::new();
    for transport in ["dev", "uring"] {
        let kind_of_count = format!("copied-{transport}");
        for (name, kind) in KINDS {
            above.extend(excess(&kind_of_count, name, || bytes_copied(transport, *kind)));
        }
    }
    judge(&above);
}
