//! Other people's servers behind `inflight-gate`, on real mounts: fuse-overlayfs, which takes /dev/fd/N and
//! splices, and bindfs, which mounts by itself.
//!
//! As root a server that is not installed is a failure: scripts/setup installs both. Others cannot mount.

mod mounted;

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::mpsc::channel;
use std::time::Duration;

use inflight_gate::{Action, Outcome, Phase, Rule};
use mounted::{BOUND, Kind, Mounted, command, ended, is_mounted};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const BOTH: [Kind; 2] = [Kind::FuseOverlayfs, Kind::Bindfs];

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("not run: mounting other people's servers needs root");
    }
    is_root
}

/// What a call on the mount comes to, in a thread of its own: it may be parked.
fn aside<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> std::sync::mpsc::Receiver<T> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(call()));
    receiver
}

#[test]
fn a_read_is_parked_at_both_phases_while_the_rest_works() {
    for (kind, phase) in BOTH
        .into_iter()
        .zip(Phase::PROXY)
        .chain(BOTH.into_iter().zip(Phase::PROXY.into_iter().rev()))
    {
        if !is_root() {
            return;
        }
        let mut mounted = Mounted::new(kind);
        let rule = mounted.gate.park(Rule::at(phase).op("read").path("/large").count(1)).unwrap();
        let path = mounted.path("large");
        let read = aside(move || fs::read(path).unwrap());
        assert!(
            mounted.gate.wait_parked(Some(rule), 1, BOUND).unwrap().reached,
            "{kind:?} {phase}"
        );
        assert_eq!(fs::read(mounted.path("small")).unwrap(), b"small");
        fs::write(mounted.path("new"), b"new").unwrap();
        assert!(read.try_recv().is_err());
        mounted.gate.unpark(rule).unwrap();
        assert!(read.recv_timeout(BOUND).unwrap() == mounted::large(), "{kind:?} {phase}");
        mounted.finish();
    }
}

#[test]
fn requests_are_held_in_the_kernel_too() {
    for kind in BOTH {
        if !is_root() {
            return;
        }
        let mut mounted = Mounted::new(kind);
        // So that only what is meant comes while nothing is received.
        let file = File::open(mounted.path("large")).unwrap();
        let rule = mounted.gate.park(Rule::at(Phase::Queued).op("read").path("/large")).unwrap();
        let last = mounted.gate.list().unwrap().last_seq;
        let read = aside(move || {
            let mut data = vec![0; 100_000];
            file.read_exact_at(&mut data, 50_000).map(|()| data)
        });
        let wait = mounted.gate.wait_parked(Some(rule), 1, BOUND).unwrap();
        assert!(wait.reached, "{kind:?}");
        assert_eq!(
            mounted.gate.list().unwrap().last_seq,
            last + 1,
            "{kind:?}: nothing is received"
        );
        mounted.gate.unpark(rule).unwrap();
        let read = read.recv_timeout(BOUND).unwrap().unwrap();
        assert!(read == mounted::large()[50_000..150_000], "{kind:?}");
        let seq = wait.parked[0].id;
        assert!(mounted.gate.wait_done(seq, BOUND).unwrap().reached);
        let records = mounted.gate.log(0, 4096, Duration::ZERO).unwrap().records;
        let record = records.iter().find(|record| record.seq == seq).unwrap();
        assert!(record.op == "read" && !record.voided(), "{kind:?}: {record:?}");
        // And in the middle of the copies, while the rest works.
        let rule = Rule::at(Phase::Copying).op("read").path("/small2");
        let rule = mounted.gate.park(rule).unwrap();
        let path = mounted.path("small2");
        let read = aside(move || fs::read(path).unwrap());
        assert!(mounted.gate.wait_parked(Some(rule), 1, BOUND).unwrap().reached, "{kind:?}");
        assert_eq!(fs::read(mounted.path("small")).unwrap(), b"small");
        mounted.gate.unpark(rule).unwrap();
        assert_eq!(read.recv_timeout(BOUND).unwrap(), [b'2'; 200], "{kind:?}");
        let rule = mounted.gate.park(Rule::at(Phase::Copying).op("write")).unwrap();
        let path = mounted.path("held");
        let write = aside(move || fs::write(path, mounted::large()).unwrap());
        assert!(mounted.gate.wait_parked(Some(rule), 1, BOUND).unwrap().reached, "{kind:?}");
        assert_eq!(fs::read(mounted.path("small2")).unwrap(), [b'2'; 200]);
        mounted.gate.unpark(rule).unwrap();
        write.recv_timeout(BOUND).unwrap();
        assert!(fs::read(mounted.behind("held")).unwrap() == mounted::large(), "{kind:?}");
        mounted.finish();
    }
}

#[test]
fn many_large_reads_at_once_are_not_mixed_up() {
    if !is_root() {
        return;
    }
    let mounted = Mounted::new(Kind::FuseOverlayfs);
    let reads: Vec<_> = (0..8)
        .map(|number| {
            let path = mounted.path("large");
            aside(move || {
                let file = File::open(path).unwrap();
                let mut data = vec![0; 200_000];
                // Every reader its own range, the page cache dropped, so that all are asked of the server.
                let start = number * 350_001;
                nix::fcntl::posix_fadvise(
                    &file,
                    0,
                    0,
                    nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
                )
                .unwrap();
                file.read_exact_at(&mut data, start as u64).unwrap();
                data == mounted::large()[start..start + 200_000]
            })
        })
        .collect();
    assert!(reads.into_iter().all(|read| read.recv_timeout(BOUND).unwrap()));
    mounted.finish();
}

#[test]
fn requests_fail_are_cut_and_wait() {
    for kind in BOTH {
        if !is_root() {
            return;
        }
        let mut mounted = Mounted::new(kind);
        mounted.gate.park(Rule::at(Phase::Received).op("read").action(Action::Fail(5))).unwrap();
        let error = fs::read(mounted.path("large")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{kind:?}");
        mounted.gate.open().unwrap();
        // The kernel takes a short answer for the end of the file and asks for the attributes again.
        mounted.gate.park(Rule::at(Phase::Replied).op("read").action(Action::Short(100))).unwrap();
        let mut first = vec![0; 200];
        let mut file = File::open(mounted.path("small2")).unwrap();
        let got = file.read(&mut first).unwrap();
        assert_eq!(&first[..100], [b'2'; 100], "{kind:?}");
        assert!(first[100..got].iter().all(|byte| *byte == 0), "{kind:?}: {got}");
        drop(file);
        mounted.gate.open().unwrap();
        mounted.gate.park(Rule::at(Phase::Received).op("create").action(Action::Delay(1))).unwrap();
        fs::write(mounted.path("late"), b"late").unwrap();
        let records = mounted.gate.log(0, 4096, Duration::ZERO).unwrap().records;
        let create = records.iter().find(|record| record.op == "create").unwrap();
        assert!(create.holds[0].released.unwrap() >= create.holds[0].parked + 1_000_000);
        assert!(records.iter().any(|record| record.outcome == Some(Outcome::Errno(5))));
        mounted.finish();
    }
}

#[test]
fn a_reader_that_is_killed_while_parked_ends_when_it_is_released() {
    for (kind, phase) in BOTH.into_iter().zip(Phase::PROXY) {
        if !is_root() {
            return;
        }
        let mut mounted = Mounted::new(kind);
        let rule = mounted.gate.park(Rule::at(phase).op("read").path("/large").count(1)).unwrap();
        let mut reader = std::process::Command::new("cat")
            .arg(mounted.path("large"))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        assert!(mounted.gate.wait_parked(Some(rule), 1, BOUND).unwrap().reached);
        kill(Pid::from_raw(reader.id() as i32), Signal::SIGKILL).unwrap();
        assert_eq!(fs::read(mounted.path("small")).unwrap(), b"small");
        mounted.gate.unpark(rule).unwrap();
        assert!(ended(&mut reader, BOUND).is_some(), "{kind:?} {phase}");
        mounted.finish();
    }
}

#[test]
fn what_is_written_arrives() {
    for kind in BOTH {
        if !is_root() {
            return;
        }
        let mounted = Mounted::new(kind);
        fs::write(mounted.path("written"), mounted::large()).unwrap();
        assert!(fs::read(mounted.behind("written")).unwrap() == mounted::large(), "{kind:?}");
        fs::rename(mounted.path("written"), mounted.path("renamed")).unwrap();
        File::options().write(true).open(mounted.path("renamed")).unwrap().set_len(7).unwrap();
        assert_eq!(fs::metadata(mounted.behind("renamed")).unwrap().size(), 7);
        fs::remove_file(mounted.path("renamed")).unwrap();
        assert_eq!(
            fs::metadata(mounted.behind("renamed")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        mounted.finish();
    }
}

#[test]
fn when_the_server_is_killed_nothing_stays_mounted() {
    for kind in BOTH {
        if !is_root() {
            return;
        }
        let mut mounted = Mounted::new(kind);
        let rule = mounted.gate.park(Rule::at(Phase::Replied).op("read").path("/large")).unwrap();
        let path = mounted.path("large");
        let read = aside(move || fs::read(path));
        assert!(mounted.gate.wait_parked(Some(rule), 1, BOUND).unwrap().reached);
        kill(mounted.server(), Signal::SIGKILL).unwrap();
        assert!(read.recv_timeout(BOUND).unwrap().is_err(), "{kind:?}");
        let status = mounted.wait();
        assert_eq!(status.code(), Some(1), "{kind:?}");
        assert!(!is_mounted(&mounted.at()), "{kind:?}");
        let said = mounted.said();
        assert!(said.contains("ended (signal: 9 (SIGKILL)) while it was mounted"), "{said}");
    }
}

#[test]
fn when_the_proxy_is_killed_nothing_stays_mounted_and_no_server_stays() {
    for kind in BOTH {
        if !is_root() {
            return;
        }
        let mut mounted = Mounted::new(kind);
        let server = mounted.server();
        let rule = mounted.gate.park(Rule::at(Phase::Received).op("read").path("/large")).unwrap();
        let path = mounted.path("large");
        let read = aside(move || fs::read(path));
        assert!(mounted.gate.wait_parked(Some(rule), 1, BOUND).unwrap().reached);
        mounted.kill();
        assert!(read.recv_timeout(BOUND).unwrap().is_err(), "{kind:?}");
        mounted.wait();
        assert!(mounted::within(BOUND, || !is_mounted(&mounted.at())), "{kind:?}");
        assert!(mounted::within(BOUND, || mounted::is_gone(server)), "{kind:?}");
    }
}

#[test]
fn a_signal_unmounts() {
    if !is_root() {
        return;
    }
    let mut mounted = Mounted::new(Kind::Bindfs);
    kill(mounted.pid(), Signal::SIGTERM).unwrap();
    assert!(mounted.wait().success());
    assert!(!is_mounted(&mounted.at()));
}

#[test]
fn commands_that_cannot_be_meant_say_what_to_do() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (words, code, text) in [
        (&["bindfs", "/", "x"][..], 2, "no argument of bindfs contains {}"),
        (&["/no/such/server", "{}"], 1, "cannot start /no/such/server: No such file"),
        (&["true", "{}"], 1, "true ended (exit status: 0) before it answered INIT"),
        (&["sh", "-c", "exec 0<{}; exit 3"], 1, "Others need --intercept"),
    ] {
        let output = command().arg(at).arg("--").args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(text), "{said}");
        assert!(!is_mounted(at));
    }
    let output = command().arg("--intercept").arg(at).args(["--", "true", "{}"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("true ended (exit status: 0) before it mounted"), "{said}");
    let output = command().args(["/proc/version", "--", "bindfs", "/", "{}"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/proc/version: not a directory"), "{said}");
}
