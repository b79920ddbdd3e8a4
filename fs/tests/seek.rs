//! lseek(2) for data and holes beside writes that are under way.

mod common;

use common::{Place, can_mount, pattern};
use inflight_gate::{Client, Phase, Rule};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(60);

#[test]
fn a_parked_write_holds_up_no_seek_that_does_not_depend_on_it() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    let socket = place.dir.path().join("gate");
    let mount = place.mount("", &["--gate", socket.to_str().expect("path")]);
    let (f, g) = (mount.path("f"), mount.path("g"));
    let layout = |path| {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        file.write_all_at(&pattern(8192, 1), 0)?;
        file.write_all_at(&pattern(8192, 2), 1 << 20)?;
        file.sync_all().map(|()| file)
    };
    let (f, g) = (layout(f).expect("write"), layout(g).expect("write"));
    let mut gate = Client::connect(&socket).expect("the gate");
    let rule = gate.park(Rule::at(Phase::Received).op("write").path("/f")).expect("a rule");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            f.write_all_at(b"over", 0).expect("into the page cache");
            // fsync(2) would hold a lock in the kernel that lseek(2) takes.
            nix::unistd::syncfs(&f).expect("released in the end");
        });
        assert!(gate.wait_parked(Some(rule), 1, BOUND).expect("wait").reached);
        let (done, seen) = std::sync::mpsc::channel();
        let f = &f;
        scope.spawn(move || {
            let seeks = [(0, Whence::SeekData), (0, Whence::SeekHole), (8192, Whence::SeekData)];
            let found = seeks.map(|(at, whence)| lseek(f, at, whence));
            done.send(found).expect("the test waits");
        });
        let found = seen.recv_timeout(BOUND);
        // A seek of another file, and one that depends on what is parked.
        assert_eq!(lseek(&g, 0, Whence::SeekHole), Ok(8192));
        assert_eq!(gate.list().expect("list").parked.len(), 1, "it was parked all the time");
        gate.open().expect("open");
        assert_eq!(found, Ok([Ok(0), Ok(8192), Ok(1 << 20)]), "they were held up");
    });
    drop((f, g));
    mount.umount();
}

#[test]
fn a_seek_that_waits_for_a_parked_write_holds_up_no_other_file() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    let socket = place.dir.path().join("gate");
    let mount = place.mount("", &["--gate", socket.to_str().expect("path")]);
    let file = |name: &str| {
        let path = mount.path(name);
        File::options().read(true).write(true).create_new(true).open(path).expect("create")
    };
    let (f, g) = (file("f"), file("g"));
    let mut gate = Client::connect(&socket).expect("the gate");
    let rule = gate.park(Rule::at(Phase::Received).op("write").path("/f")).expect("a rule");
    f.write_all_at(&pattern(4096, 1), 4096).expect("into the page cache");
    g.write_all_at(&pattern(4096, 1), 4096).expect("into the page cache");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| lseek(&f, 0, Whence::SeekData));
        assert!(gate.wait_parked(Some(rule), 1, BOUND).expect("wait").reached);
        let (done, seen) = std::sync::mpsc::channel();
        let g = &g;
        scope.spawn(move || done.send(lseek(g, 0, Whence::SeekData)).expect("the test waits"));
        let found = seen.recv_timeout(BOUND);
        assert_eq!(gate.list().expect("list").parked.len(), 1, "it was parked all the time");
        gate.open().expect("open");
        assert_eq!(found, Ok(Ok(4096)), "the other file's seek was held up");
        assert_eq!(waits.join().expect("no panic"), Ok(4096), "data that was on its way is data");
    });
    drop((f, g));
    mount.umount();
}

#[test]
fn pages_that_the_answer_does_not_depend_on_stay_cached() {
    if !can_mount() {
        return;
    }
    let place = Place::new(64);
    let mount = place.mount("", &[]);
    let file = File::options().read(true).write(true).create_new(true).open(mount.path("f"));
    let file = file.expect("create");
    file.write_all_at(&pattern(1 << 20, 1), 0).expect("write");
    file.sync_all().expect("sync");
    let reads = || -> u64 {
        let ways = mount.stat()["reads"].clone();
        let ways = ways.as_object().expect("ways").values();
        ways.map(|way| way["requests"].as_u64().expect("a counter")).sum()
    };
    let before = reads();
    for _ in 0..10 {
        assert_eq!(lseek(&file, 0, Whence::SeekData), Ok(0));
        assert_eq!(lseek(&file, 0, Whence::SeekHole), Ok(1 << 20));
        let mut bytes = vec![0; 1 << 20];
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert!(bytes == pattern(1 << 20, 1));
    }
    // Each round would read it again. That somebody drops the caches of the whole machine meanwhile may happen, not ten times.
    let again = reads() - before;
    assert!(again < 10, "what was in memory was read again: {again} requests");
    drop(file);
    mount.umount();
}
