//! Which transport serves, and the one line that says why it is not the one that was asked for.
//!
//! What the machine offers is changed for one process tree at a time: in a mount namespace of its own, where another file lies
//! over the module's parameter, or behind a system call filter.
#![allow(unsafe_code)] // to refuse a system call to a child

mod common;

use common::{INFLIGHT, Place, can_mount, text};
use serde_json::Value;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// What `inflight mount` said, and which transport `inflight stat` names.
struct Mounted {
    said: String,
    transport: String,
}

/// Mounts with `options` after `prepare`, writes and reads a file past the page cache, and unmounts: in a mount namespace that
/// goes with it all.
fn mount_after(
    prepare: &str,
    options: &str,
    more: &str,
    tune: impl FnOnce(&mut Command),
) -> Mounted {
    let place = Place::new(32);
    fs::write(place.dir.path().join("data"), common::pattern(1 << 20, 1)).expect("write");
    let script = format!(
        "set -e; cd \"$1\"; mkdir -p parameters; {prepare}
         {more} \"$0\" mount --log log -o {options} a.img m 2>said
         dd if=data of=m/f bs=256k oflag=direct status=none && cmp data m/f
         \"$0\" stat --json m >stat; \"$0\" umount m"
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "timeout", "-k", "5", "100", "sh", "-c", &script, INFLIGHT]);
    command.arg(place.dir.path()).env("NO_COLOR", "1").env_remove("RUST_LOG");
    tune(&mut command);
    let out = command.output().expect("unshare runs");
    let read = |name| fs::read_to_string(place.dir.path().join(name)).unwrap_or_default();
    assert!(out.status.success(), "{}\n{}", text(&out.stderr), read("said"));
    let stat: Value = serde_json::from_str(&read("stat")).expect("JSON");
    let transport = stat["transport"].as_str().expect("a transport").to_owned();
    common::ok(&["fsck", place.image()]);
    Mounted { said: read("said"), transport }
}

fn mounted(prepare: &str, options: &str) -> Mounted {
    mount_after(prepare, options, "", |_| {})
}

impl Mounted {
    #[track_caller]
    fn said_one_line(&self, what: &str) {
        assert!(self.said.contains(what), "{:?} does not say {what:?}", self.said);
        assert_eq!(self.said.trim_end().lines().count(), 1, "one line, not {:?}", self.said);
    }

    #[track_caller]
    fn said_nothing(&self) {
        assert_eq!(self.said, "");
    }

    #[track_caller]
    fn serves(&self, transport: &str, why: &str) {
        let begins = self.transport.starts_with(&format!("{transport} ("));
        assert!(begins && self.transport.contains(why), "{}", self.transport);
    }
}

/// The parameter reads N, and takes what is written to it.
const OFF: &str = "echo N >N; mount --bind N /sys/module/fuse/parameters/enable_uring;";
/// The parameter reads N, and nobody may write it.
const OFF_FOR_GOOD: &str = "echo N >N; mount --bind N /sys/module/fuse/parameters/enable_uring;
    mount -o remount,bind,ro /sys/module/fuse/parameters/enable_uring;";
/// There is no such parameter.
const UNKNOWN: &str = "mount --bind parameters /sys/module/fuse/parameters;";

#[test]
fn a_parameter_that_is_off_is_turned_on_with_one_line() {
    if !can_mount() {
        return;
    }
    for (options, why) in [("transport=uring", "asked for"), ("transport=auto", "fastest")] {
        // The kernel's own must be on for this: it is, once anybody mounted so.
        inflight_fuse::channel::uring::enable().expect("the kernel has fuse-over-io_uring");
        let mounted = mounted(OFF, options);
        mounted.said_one_line("fuse-over-io_uring was off and is on now");
        mounted.serves("uring", why);
    }
}

#[test]
fn a_parameter_that_cannot_be_turned_on_leaves_the_device() {
    if !can_mount() {
        return;
    }
    for (prepare, why) in [
        (OFF_FOR_GOOD, "enable_uring is N, and cannot be set: Read-only file system"),
        (UNKNOWN, "this kernel has no fuse-over-io_uring"),
    ] {
        let asked = mounted(prepare, "transport=uring");
        asked.said_one_line(why);
        asked.serves("dev", why);
        let auto = mounted(prepare, "rw");
        auto.said_nothing();
        auto.serves("dev", why);
    }
}

/// Makes io_uring_setup(2) fail with EPERM in the child, as container runtimes do.
fn refuse_io_uring(command: &mut Command) {
    const LOAD_NR: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        op(LOAD_NR, 0, 0, 0),
        op(JUMP_EQ, 0, 1, libc::SYS_io_uring_setup as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = move || {
        let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
        // SAFETY: both calls only read their arguments; the program outlives the second.
        let refused = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
                | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter)
        };
        if refused == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec two system calls are made; nothing is allocated or locked.
    unsafe { command.pre_exec(filter) };
}

#[test]
fn without_io_uring_the_device_serves() {
    if !can_mount() {
        return;
    }
    let why = "no ring for queue 0 of fuse-over-io_uring: Operation not permitted";
    let asked = mount_after("", "transport=uring", "", refuse_io_uring);
    asked.said_one_line(why);
    asked.serves("dev", why);
    let auto = mount_after("", "rw", "", refuse_io_uring);
    auto.said_nothing();
    auto.serves("dev", why);
}

#[test]
fn a_registration_that_fails_half_way_leaves_the_device() {
    if !can_mount() {
        return;
    }
    let last = inflight_fuse::channel::uring::possible_cores() - 1;
    for queue in [0, last] {
        let mounted = mounted("", &format!("transport=uring,refused_queue={queue}"));
        let why = format!("queue {queue} of fuse-over-io_uring was refused: EINVAL");
        mounted.said_one_line(&why);
        mounted.serves("dev", &why);
    }
}

#[test]
fn with_few_locked_pages_less_is_registered_or_the_device_serves() {
    if !can_mount() {
        return;
    }
    // Without the capability the limit counts for root too.
    let limited = |kib: u64| {
        let bytes = kib << 10;
        format!("setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock prlimit --memlock={bytes}")
    };
    let few = mount_after("", "transport=uring", &limited(8192), |_| {});
    few.serves("uring", "its buffers cannot be registered: Out of memory");
    few.said_nothing();
    let why = "no ring for queue 0 of fuse-over-io_uring: Cannot allocate memory";
    let none = mount_after("", "transport=uring", &limited(64), |_| {});
    none.serves("dev", why);
    none.said_one_line(why);
}

#[test]
fn who_asks_for_nothing_gets_the_fastest_that_does_what_is_asked() {
    if !can_mount() {
        return;
    }
    inflight_fuse::channel::uring::enable().expect("the kernel has fuse-over-io_uring");
    for (options, transport, why) in [
        ("rw", "uring", "fastest"),
        ("read=copy", "uring", "fastest"),
        ("read=buffered", "dev", "spliced"),
        ("read=direct", "dev", "spliced"),
        ("transport=dev", "dev", "asked for"),
        ("transport=fuser", "fuser", "asked for"),
    ] {
        let mounted = mounted("", options);
        mounted.serves(transport, why);
        mounted.said_nothing();
    }
    let gated = mounted("", "rw --gate gate");
    gated.serves("dev", "parked");
    gated.said_nothing();
}
