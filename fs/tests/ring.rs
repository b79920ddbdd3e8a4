//! The end of things while a request is parked on a queue of transport=uring: the connection's, the mount's, the client's, the
//! server's. Whoever asked gets an end to its call, nothing is answered twice, the image opens clean.

mod common;

use common::{Mount, Place, can_mount, ok, open_direct, pattern};
use inflight_gate::{Client, Outcome, Phase, Record, Rule};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const LEN: usize = 65_536;
/// Requests of one core that the server can have.
const PLACES: u64 = 32;

/// A process with one request in flight. It goes with the test, and the mount's guard ends its call.
struct Asker(Child);

impl Asker {
    /// Reads the first bytes of `f` past the page cache, or writes them from `new`, on core 0.
    fn new(mount: &Mount, place: &Place, op: &str) -> Asker {
        let file = mount.path("f").display().to_string();
        let new = place.dir.path().join("new").display().to_string();
        let (from, to, flag) = match op {
            "read" => (file, "/dev/null".to_owned(), "iflag=direct"),
            _ => (new, file, "oflag=direct"),
        };
        let child = Command::new("taskset")
            .args(["-c", "0", "dd", "status=none", "conv=notrunc", "count=1", flag])
            .args([format!("bs={LEN}"), format!("if={from}"), format!("of={to}")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Asker(child.expect("taskset and dd run"))
    }

    fn end(mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("wait") {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the call of the client does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// What happens while the request is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// /sys/fs/fuse/connections/N/abort.
    Abort,
    /// umount2(2) with MNT_DETACH.
    Detach,
    KillClient,
    KillServer,
}

fn mount_gated(place: &Place, options: &str) -> (Mount, Client) {
    let socket = place.dir.path().join("gate");
    let options = format!("transport=uring,nowriteback,{options}");
    let mount = place.mount(&options, &["--gate", socket.to_str().expect("path")]);
    let serves = mount.stat()["transport"].to_string();
    assert!(serves.starts_with("\"uring"), "{serves}");
    (mount, Client::connect(&socket).expect("a gate"))
}

/// Makes `f` in the image, and the bytes that may replace it.
fn contents(place: &Place) -> (Vec<u8>, Vec<u8>) {
    let (old, new) = (pattern(LEN, 1), pattern(LEN, 2));
    fs::write(place.dir.path().join("new"), &new).expect("write");
    let mount = place.mount("", &[]);
    fs::write(mount.path("f"), &old).expect("write");
    mount.umount();
    (old, new)
}

fn park(gate: &mut Client, op: &str, phase: Phase) {
    gate.park(Rule::at(phase).op(op).path("/f").ttl_ms(60_000)).expect("a rule");
}

fn is_mounted(place: &Place) -> bool {
    let table = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let dir = place.dir.path().join("m");
    table.lines().any(|line| line.split(' ').nth(1) == dir.to_str())
}

/// Waits for the end of a process that is not our child.
fn wait_for_end(process: i32) {
    let begun = Instant::now();
    // What is left of one that nobody has waited for yet is in state Z.
    let lives = || match fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")),
        Err(_) => false,
    };
    while lives() {
        assert!(begun.elapsed() < PATIENCE, "the server does not end");
        std::thread::yield_now();
    }
}

/// Lets `event` happen while a request is parked at `phase`.
fn play(place: &Place, op: &str, phase: Phase, event: Event) {
    let what = format!("{event:?} of a {op} at {phase:?}");
    let (mount, mut gate) = mount_gated(place, "");
    park(&mut gate, op, phase);
    let asker = Asker::new(&mount, place, op);
    assert!(gate.wait_parked(None, 1, PATIENCE).expect("a gate").reached, "{what}: not parked");
    let log = mount.log.clone();
    match event {
        Event::Abort => {
            let server = mount.server();
            mount.abort();
            assert!(!asker.end().success(), "{what}: the call succeeds");
            // The end of a mount lingers for those who hold its requests.
            drop(gate);
            wait_for_end(server);
            drop(mount);
        }
        Event::Detach => {
            umount2(&mount.dir, MntFlags::MNT_DETACH).expect("umount");
            gate.open().expect("open");
            assert!(asker.end().success(), "{what}: the call fails");
            drop(mount);
        }
        Event::KillClient => {
            kill(Pid::from_raw(asker.0.id() as i32), Signal::SIGKILL).expect("kill");
            gate.open().expect("open");
            assert_eq!(asker.end().signal(), Some(libc::SIGKILL), "{what}");
            one_answer_each(&mut gate, &what);
            assert_eq!(mount.stat()["pins"], 0, "{what}");
            mount.umount();
        }
        Event::KillServer => {
            kill(Pid::from_raw(mount.server()), Signal::SIGKILL).expect("kill");
            assert!(!asker.end().success(), "{what}: the call succeeds");
            drop(mount);
        }
    }
    assert!(!is_mounted(place), "{what}: it is still mounted");
    ok(&["fsck", place.image()]);
    let said = fs::read_to_string(log).expect("a log");
    assert!(said.is_empty(), "{what}: the server said {said}");
}

/// The log when every request that came has an end.
fn finished(gate: &mut Client, what: &str) -> Vec<Record> {
    let begun = Instant::now();
    let (mut records, mut since) = (Vec::new(), 0);
    loop {
        let page = gate.log(since, usize::MAX, Duration::ZERO).expect("the log");
        since = page.next;
        let is_all = page.records.is_empty() && page.open.is_empty();
        records.extend(page.records);
        if is_all {
            return records;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {:?} have no answer", page.open);
        std::thread::yield_now();
    }
}

/// Every request that came has one answer.
fn one_answer_each(gate: &mut Client, what: &str) {
    let records = finished(gate, what);
    let uniques: BTreeSet<_> = records.iter().map(|record| record.unique).collect();
    assert_eq!(uniques.len(), records.len(), "{what}: {records:?}");
    assert!(records.iter().all(|record| record.outcome != Some(Outcome::Dropped)), "{what}");
}

/// Plays `event` at every phase of a read and of a write, and looks at the file each time.
fn at_every_phase(event: Event) {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let (old, new) = contents(&place);
    let phases = Phase::ALL.into_iter().map(|phase| ("read", phase));
    let writes = [Phase::Received, Phase::Prepared, Phase::Applied].map(|phase| ("write", phase));
    for (op, phase) in phases.chain(writes) {
        play(&place, op, phase, event);
        let mount = place.mount("", &[]);
        let found = fs::read(mount.path("f")).expect("read");
        assert_eq!(found.len(), LEN);
        let blocks = found.chunks(4096).zip(old.chunks(4096).zip(new.chunks(4096)));
        for (number, (found, (old, new))) in blocks.enumerate() {
            let is_known = found == new && op == "write" || found == old;
            assert!(is_known, "{event:?}, {op}, {phase:?}: block {number} is neither");
        }
        fs::write(mount.path("f"), &old).expect("write");
        mount.umount();
    }
}

#[test]
fn an_aborted_connection_ends_everything() {
    at_every_phase(Event::Abort);
}

#[test]
fn a_detached_mount_answers_what_is_parked() {
    at_every_phase(Event::Detach);
}

#[test]
fn a_client_that_is_killed_takes_nobody_along() {
    at_every_phase(Event::KillClient);
}

#[test]
fn a_server_that_is_killed_leaves_nobody_waiting() {
    at_every_phase(Event::KillServer);
}

#[test]
fn the_places_of_killed_clients_are_taken_again() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let (old, _) = contents(&place);
    let (mount, mut gate) = mount_gated(&place, "");
    for round in 0..PLACES + 4 {
        park(&mut gate, "read", Phase::ALL[round as usize % Phase::ALL.len()]);
        let asker = Asker::new(&mount, &place, "read");
        assert!(gate.wait_parked(None, 1, PATIENCE).expect("a gate").reached, "round {round}");
        kill(Pid::from_raw(asker.0.id() as i32), Signal::SIGKILL).expect("kill");
        gate.open().expect("open");
        asker.end();
    }
    let mut found = vec![0; LEN];
    open_direct(&mount.path("f")).read_exact_at(&mut found, 0).expect("read");
    assert!(found == old);
    one_answer_each(&mut gate, "killed one after the other");
    mount.umount();
}

/// Binds the calling thread to core 0.
fn to_the_first_core() {
    let mut set = CpuSet::new();
    set.set(0).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).expect("there is a core 0");
}

/// Waits until `count` requests are parked; what the server said so far.
fn said_when_parked(gate: &mut Client, mount: &Mount, count: u64) -> String {
    assert!(gate.wait_parked(None, count, PATIENCE).expect("a gate").reached, "{count} parked");
    fs::read_to_string(&mount.log).expect("a log")
}

#[test]
fn the_gate_says_so_before_a_cores_last_place_is_parked() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    contents(&place);
    let (mount, mut gate) = mount_gated(&place, "");
    park(&mut gate, "read", Phase::Prepared);
    let file = open_direct(&mount.path("f"));
    std::thread::scope(|scope| {
        let ask = || {
            let mut memory = [0; 4096];
            to_the_first_core();
            file.read_exact_at(&mut memory, 0).expect("read");
        };
        for _ in 0..PLACES - 2 {
            scope.spawn(ask);
        }
        assert_eq!(said_when_parked(&mut gate, &mount, PLACES - 2), "");
        scope.spawn(ask);
        let said = said_when_parked(&mut gate, &mount, PLACES - 1);
        assert!(said.contains("one place left") && said.lines().count() == 1, "{said}");
        scope.spawn(ask);
        let said = said_when_parked(&mut gate, &mount, PLACES);
        assert!(said.contains("the last place") && said.lines().count() == 2, "{said}");
        gate.open().expect("open");
    });
    drop(file);
    mount.umount();
}

/// A file without a name whose blocks a full image could have, and does not get.
struct Orphan(#[expect(dead_code, reason = "it is held open")] File);

fn fill(mount: &Mount) -> Orphan {
    let path = mount.path("orphan");
    let orphan = File::create_new(&path).expect("create");
    orphan.write_all_at(&pattern(1 << 20, 3), 0).expect("write");
    fs::remove_file(path).expect("unlink");
    let rest = File::create_new(mount.path("rest")).expect("create");
    for len in [1 << 18, 4096] {
        let piece = pattern(len, 4);
        let append = || rest.metadata().and_then(|found| rest.write_all_at(&piece, found.len()));
        let full = std::iter::from_fn(|| Some(append())).find_map(Result::err);
        assert_eq!(full.and_then(|error| error.raw_os_error()), Some(libc::ENOSPC));
    }
    Orphan(orphan)
}

#[test]
fn a_write_that_waits_for_room_holds_nobody_up() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let (mount, mut gate) = mount_gated(&place, "attr_timeout=0");
    let orphan = fill(&mount);
    let last_seq = gate.list().expect("a list").last_seq;
    let more = File::create_new(mount.path("more")).expect("create");
    let (dir, barrier) = (mount.dir.as_path(), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            to_the_first_core();
            barrier.wait();
            more.write_all_at(&pattern(LEN, 5), 0).expect_err("the image is full");
        });
        scope.spawn(|| {
            to_the_first_core();
            barrier.wait();
            for _ in 0..20_000 {
                fs::metadata(dir).expect("stat");
            }
        });
    });
    let records = finished(&mut gate, "a full image");
    let is_new = |record: &&Record| record.seq > last_seq;
    let write = records.iter().filter(is_new).find(|record| record.op == "write");
    let write = write.expect("a write");
    assert_eq!(write.outcome, Some(Outcome::Errno(libc::ENOSPC)));
    let during = |record: &&Record| {
        matches!(&*record.op, "statx" | "getattr")
            && record.times.arrived > write.times.arrived
            && record.times.done < write.times.done
    };
    assert!(records.iter().any(|record| during(&record)), "its core served nobody: {write:?}");
    drop((more, orphan));
    mount.umount();
    ok(&["fsck", place.image()]);
}
