//! What the kernel is told unasked, typed as people do: `inflight gate SOCKET notify ...`; and what it tells unasked: INTERRUPT.

mod common;

use common::{INFLIGHT, Mount, Place, can_mount, inflight, ok, open_direct, text};
use inflight_gate::{Client, Phase, Record, Rule};
use nix::sys::signal::{Signal, kill};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const PAGE: usize = 4096;
const LEN: usize = 8 * PAGE;

/// Runs a test on a gated mount with a file `d/f` of ones, which the page cache does not have.
fn with_gate(test: impl FnOnce(&Mount, &Path)) {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let socket = place.dir.path().join("gate");
    let gate = ["--gate", socket.to_str().expect("path")];
    let mount = place.mount("transport=dev,nowriteback", &gate);
    fs::create_dir(mount.path("d")).expect("mkdir");
    fs::write(mount.path("d/f"), [1; LEN]).expect("write");
    test(&mount, &socket);
    mount.umount();
}

/// `inflight gate SOCKET notify` with the rest of a command line.
fn notify(socket: &Path, rest: &str, input: &[u8]) -> Output {
    let mut child = Command::new(INFLIGHT)
        .arg("gate")
        .arg(socket)
        .arg("notify")
        .args(rest.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("inflight runs");
    // It may refuse before it reads.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    child.wait_with_output().expect("it ends")
}

#[track_caller]
fn taken(output: &Output) -> Vec<u8> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    output.stdout.clone()
}

fn requests(socket: &Path, op: &str) -> Vec<Record> {
    let mut gate = Client::connect(socket).expect("a gate");
    let page = gate.log(0, 4096, Duration::ZERO).expect("a log");
    page.records.into_iter().chain(page.open).filter(|record| record.op == op).collect()
}

#[test]
fn what_is_stored_is_retrieved_and_goes_when_it_is_stale() {
    with_gate(|mount, socket| {
        let file = mount.path("d/f");
        let read = || fs::read(&file).expect("read");
        assert_eq!(read(), [1; LEN]);
        // Longer than a line of the protocol.
        let ours = vec![7; 5 * PAGE];
        let said = taken(&notify(socket, "store --path /d/f --offset 4096", &ours));
        assert_eq!(text(&said), "taken: 20480 bytes\n");
        let seen = [&[1; PAGE][..], &ours, &[1; 2 * PAGE]].concat();
        assert_eq!(read(), seen, "the page cache has it");
        let came = taken(&notify(socket, "retrieve --path /d/f --len 32768", b""));
        assert!(came == seen, "{} bytes came", came.len());
        let ino = fs::metadata(&file).expect("stat").ino();
        let part = format!("retrieve --ino {ino} --offset 2048 --len 4096");
        assert_eq!(taken(&notify(socket, &part, b"")), seen[2048..][..PAGE]);
        assert_eq!(taken(&notify(socket, "inval --path /d/f", b"")), b"taken\n");
        assert_eq!(taken(&notify(socket, "retrieve --path /d/f", b"")), b"", "nothing is cached");
        assert_eq!(read(), [1; LEN], "it is asked for again");
    });
}

#[test]
fn a_name_that_is_stale_is_looked_up_again() {
    with_gate(|mount, socket| {
        let stat = || fs::metadata(mount.path("d/f")).expect("stat");
        let count = || requests(socket, "lookup").len();
        stat();
        let known = count();
        stat();
        assert_eq!(count(), known, "the kernel has the name");
        assert_eq!(taken(&notify(socket, "inval-entry --path /d/f", b"")), b"taken\n");
        stat();
        assert_eq!(count(), known + 1);
        taken(&notify(socket, "inval-entry --path /d/f --expire", b""));
        let refused = notify(socket, "inval-entry --path /d/none", b"");
        let said = text(&refused.stderr);
        assert!(!refused.status.success() && said.contains("ENOENT"), "{said}");
        let refused = notify(socket, "inval --path /none", b"");
        assert!(text(&refused.stderr).contains("/none"), "{}", text(&refused.stderr));
        let help = text(&inflight(&["gate", "x", "notify", "--help"]).stdout);
        for word in ["inval", "inval-entry", "store", "retrieve", "resend"] {
            assert!(help.contains(&format!("\n  {word} ")), "{help}");
        }
    });
}

#[test]
fn what_is_parked_is_sent_again() {
    with_gate(|mount, socket| {
        let name = socket.to_str().expect("path");
        let args = ["gate", name, "park", "--op", "read", "--path", "/d/f"];
        ok(&args);
        let file = open_direct(&mount.path("d/f"));
        let read = std::thread::spawn(move || {
            // Aligned, wherever the heap is.
            let mut memory = vec![0; LEN + PAGE];
            let at = memory.as_ptr().align_offset(PAGE);
            file.read_exact_at(&mut memory[at..at + LEN], 0).map(|()| memory[at..at + LEN].to_vec())
        });
        ok(&["gate", name, "wait"]);
        assert_eq!(taken(&notify(socket, "resend", b"")), b"taken\n");
        ok(&["gate", name, "wait", "--parked", "2"]);
        ok(&["gate", name, "open"]);
        assert_eq!(read.join().expect("no panic").expect("read"), [1; LEN]);
    });
}

/// Not only the first: an answer of ENOSYS would be the end of INTERRUPTs.
#[test]
fn each_signal_for_who_waits_is_in_the_log() {
    with_gate(|mount, socket| {
        let mut gate = Client::connect(socket).expect("a gate");
        for turn in 0..2 {
            let rule = Rule::at(Phase::Received).op("fsync").path("/d/f");
            let rule = gate.park(rule).expect("a rule");
            let mut child = Command::new("sync").arg(mount.path("d/f")).spawn().expect("sync runs");
            let wait = gate.wait_parked(Some(rule), 1, PATIENCE).expect("a gate");
            assert!(wait.reached, "no fsync came");
            let seq = wait.parked[0].id;
            let record = || requests(socket, "fsync").into_iter().find(|found| found.seq == seq);
            assert_eq!(record().expect("logged").times.interrupted, None);
            kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("kill");
            let end = Instant::now() + PATIENCE;
            while record().expect("logged").times.interrupted.is_none() {
                assert!(Instant::now() < end, "no INTERRUPT came in turn {turn}");
                std::thread::yield_now();
            }
            gate.unpark(rule).expect("a rule");
            assert_eq!(child.wait().expect("it ends").signal(), Some(libc::SIGTERM));
            assert!(gate.wait_done(seq, PATIENCE).expect("a gate").reached);
            let said = ok(&["gate", socket.to_str().expect("path"), "log"]);
            assert_eq!(said.matches("interrupted +").count(), turn + 1, "{said}");
        }
    });
}
