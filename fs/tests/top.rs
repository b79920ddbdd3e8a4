//! `inflight top`: as text, and on a terminal.

mod common;

use common::{INFLIGHT, Place, can_mount, ok, refused, text};
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A frame of a mount on which a read is parked has the read, and who waits for it.
#[test]
fn a_frame_shows_who_waits_for_what() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let socket = place.dir.path().join("gate");
    let socket = socket.to_str().expect("path");
    let mount = place.mount("transport=dev", &["--gate", socket]);
    std::fs::write(mount.path("a"), [7; 20_000]).expect("write");
    File::open(mount.path("a")).expect("open").sync_all().expect("fsync");
    common::drop_caches();
    ok(&["gate", socket, "park", "--op", "read", "--phase", "prepared", "--for", "60s"]);
    let mut head = Command::new("dd")
        .args(["iflag=direct", "bs=8192", "skip=1", "count=1", "status=none"])
        .arg(format!("if={}", mount.path("a").display()))
        .stdout(Stdio::null())
        .spawn()
        .expect("dd");
    ok(&["gate", socket, "wait", "--parked", "1"]);
    let dir = &mount.dir.to_str().expect("path").to_owned();
    let idle = ok(&["top", "--once", "--interval", "100ms", dir]);
    assert!(idle.contains(" 0 requests") && !idle.contains("-0 "), "{idle}");
    let frame = ok(&["top", "--once", "--interval", "100ms", dir]);
    let pid = head.id().to_string();
    let line = |holds: &[&str]| {
        let found = frame.lines().find(|line| holds.iter().all(|word| line.contains(word)));
        found.unwrap_or_else(|| panic!("no line with {holds:?} in\n{frame}"))
    };
    let read = line(&["prepared, parked", "read", "8192..16384"]);
    assert!(read.contains(&format!("{pid} dd")), "{read}");
    line(&["ways", "writes: ", " 1"]);
    line(&["in flight", "1 requests; 1 reads hold blocks"]);
    line(&["space", "of 16.00 MiB"]);
    let write = line(&["write ", "µs"]);
    assert_eq!(write.split_whitespace().count(), 7, "{write}");
    let process: Vec<&str> = line(&[&format!("{pid} "), "dd", " 1 "]).split_whitespace().collect();
    assert_eq!(process[..3], [pid.as_str(), "dd", "1"]);
    assert!(frame.lines().all(|line| line.chars().count() <= 120), "{frame}");
    ok(&["gate", socket, "open"]);
    assert!(head.wait().expect("wait").success());
    assert!(refused(1, &["top", dir]).contains("--once prints one frame"));
    assert!(refused(1, &["top", "--interval", "1ms", dir]).contains("give 50ms or more"));
    mount.umount();
    assert!(refused(1, &["top", "--once", dir]).contains("not the root of an Inflight mount"));
}

/// `inflight top` on a terminal of its own.
fn on_terminal(dir: &str) -> Child {
    let line = format!("stty rows 40 cols 100; {INFLIGHT} top --interval 100ms {dir}");
    Command::new("timeout")
        .args(["60", "script", "-q", "-e", "-c", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script (package bsdutils)")
}

/// Reads until `wanted` was printed; all that was.
fn read_until(child: &mut Child, wanted: &str) -> String {
    let out = child.stdout.as_mut().expect("a pipe");
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    while !text(&said).contains(wanted) {
        let count = out.read(&mut piece).expect("read");
        assert!(count > 0, "it ended before {wanted:?}: {}", text(&said));
        said.extend_from_slice(&piece[..count]);
    }
    text(&said)
}

/// How a terminal enters and leaves its second screen (xterm, DECSET 1049).
const ENTERS: &str = "\x1b[?1049h";
const LEAVES: &str = "\x1b[?1049l";

#[test]
fn it_ends_when_asked_and_with_the_mount_and_leaves_the_terminal_as_it_was() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let mount = place.mount("", &[]);
    let dir = mount.dir.to_str().expect("path").to_owned();
    // q, and Ctrl-C, which is a key here.
    for key in [b"q", b"\x03"] {
        let mut top = on_terminal(&dir);
        let drawn = read_until(&mut top, "Processes");
        assert!(drawn.contains(ENTERS) && drawn.contains("Operations"), "{drawn}");
        top.stdin.as_mut().expect("a pipe").write_all(key).expect("write");
        let rest = read_until(&mut top, LEAVES);
        assert!(!rest.contains("not mounted"), "{rest}");
        assert!(top.wait().expect("wait").success());
    }
    let mut top = on_terminal(&dir);
    read_until(&mut top, "Processes");
    mount.umount();
    let rest = read_until(&mut top, "is not mounted any more");
    assert!(rest.contains(LEAVES), "{rest}");
    assert!(top.wait().expect("wait").success());
}

/// A window that is closed takes it along: nothing reads the end of a terminal for ever.
#[test]
fn it_ends_with_its_terminal() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let mount = place.mount("", &[]);
    // Closed in programs that are started: one that has it, be it a server of another test, would keep the terminal.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).expect("posix_openpt");
    grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal");
    let slave = ptsname_r(&master).expect("ptsname_r");
    let open = || File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&slave);
    let [stdin, stdout, stderr, size] = [(); 4].map(|()| open().expect("the terminal"));
    let sized = Command::new("stty").args(["rows", "40", "cols", "100"]).stdin(size).status();
    assert!(sized.expect("stty").success());
    // Not its controlling terminal, so that no signal comes.
    let mut top = Command::new(INFLIGHT)
        .args(["top", "--interval", "100ms"])
        .arg(&mount.dir)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .expect("top");
    let (mut screen, mut said, mut piece) = (master, Vec::new(), [0; 4096]);
    while !text(&said).contains("Processes") {
        let count = screen.read(&mut piece).expect("read");
        said.extend_from_slice(&piece[..count]);
    }
    drop(screen);
    let end = Instant::now() + Duration::from_secs(60);
    while top.try_wait().expect("wait").is_none() {
        if Instant::now() > end {
            let _ = top.kill();
            panic!("it goes on without a terminal");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    mount.umount();
}
