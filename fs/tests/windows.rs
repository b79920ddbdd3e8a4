//! The gate's windows in the kernel: requests that nobody has read (`queued`), and copies that are not whole (`copying`).
#![allow(unsafe_code)] // memory that is looked at while the kernel copies it

mod common;

use common::{Mount, Place, can_mount, ok, open_direct};
use inflight_gate::{Action, Client, Notice, Notified, Outcome, Phase, Record, ReleasedBy, Rule};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::c_void;
use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const PAGE: usize = 4096;
const PAGES: usize = 16;
const LEN: usize = PAGE * PAGES;

/// Shared memory: the kernel copies to or from it while a test looks.
struct Memory(NonNull<c_void>);

// SAFETY: it is accessed by volatile accesses and system calls alone.
unsafe impl Send for Memory {}
// SAFETY: the same accesses are all that a shared reference allows.
unsafe impl Sync for Memory {}

impl Memory {
    /// Of `PAGES` pages, all bytes `byte`.
    fn filled(byte: u8) -> Memory {
        let size = NonZeroUsize::new(LEN).expect("not 0");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping overlaps nothing.
        let start = unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_PRIVATE) };
        let memory = Memory(start.expect("memory"));
        (0..PAGES).for_each(|page| memory.fill(page, byte));
        memory
    }

    fn fill(&self, page: usize, byte: u8) {
        // SAFETY: it is inside the mapping.
        unsafe { self.0.cast::<u8>().add(page * PAGE).write_bytes(byte, PAGE) }
    }

    /// The byte that all of a page have.
    fn page(&self, page: usize) -> u8 {
        let at = |at| {
            // SAFETY: it is inside the mapping.
            unsafe { self.0.cast::<u8>().add(page * PAGE + at).read_volatile() }
        };
        assert!((1..PAGE).all(|other| at(other) == at(0)), "page {page} is of one kind");
        at(0)
    }

    fn pages(&self) -> Vec<u8> {
        (0..PAGES).map(|page| self.page(page)).collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        let _ = unsafe { munmap(self.0, LEN) };
    }
}

/// A thread with a direct read or write of all of `f` and of `memory`: bytes, or an errno.
fn transfer(mount: &Mount, op: &str, memory: &Arc<Memory>) -> JoinHandle<Result<usize, i32>> {
    let (file, memory, reads) = (open_direct(&mount.path("f")), Arc::clone(memory), op == "read");
    std::thread::spawn(move || {
        let fd = file.as_raw_fd();
        // SAFETY: the memory is there as long as this thread refers to it.
        let done = unsafe {
            match reads {
                true => libc::pread(fd, memory.0.as_ptr(), LEN, 0),
                false => libc::pwrite(fd, memory.0.as_ptr(), LEN, 0),
            }
        };
        nix::errno::Errno::result(done).map(|done| done as usize).map_err(|errno| errno as i32)
    })
}

/// A mount with a gate and a file `f` whose every page is of its number plus 1.
fn gated(place: &Place, options: &str) -> (Mount, Client) {
    let socket = place.dir.path().join("gate");
    let options = format!("nowriteback,{options}");
    let mount = place.mount(&options, &["--gate", socket.to_str().expect("path")]);
    let bytes: Vec<u8> = (1..=PAGES as u8).flat_map(|byte| [byte; PAGE]).collect();
    fs::write(mount.path("f"), bytes).expect("write");
    // The first OPEN asks whether there are any: from now on opening sends nothing.
    open_direct(&mount.path("f"));
    (mount, Client::connect(&socket).expect("a gate"))
}

/// Runs a test on a gated mount, of which every request has ended afterwards. Does nothing where nothing can be mounted.
fn with_gate(options: &str, test: impl FnOnce(&Mount, &mut Client)) {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let (mount, mut gate) = gated(&place, options);
    test(&mount, &mut gate);
    all_end(&mut gate);
    mount.umount();
}

fn own_pages() -> Vec<u8> {
    (1..=PAGES as u8).collect()
}

/// Waits until one request is parked: its id.
fn meet(gate: &mut Client, rule: u64) -> u64 {
    let wait = gate.wait_parked(Some(rule), 1, PATIENCE).expect("a gate");
    assert!(wait.reached, "nothing was parked");
    wait.parked[0].id
}

fn record(gate: &mut Client, seq: u64) -> Record {
    assert!(gate.wait_done(seq, PATIENCE).expect("a gate").reached, "{seq} is not over");
    let mut since = 0;
    loop {
        let page = gate.log(since, 4096, Duration::ZERO).expect("the log");
        assert!(page.next > since, "{seq} is not in the log");
        if let Some(record) = page.records.into_iter().find(|record| record.seq == seq) {
            return record;
        }
        since = page.next;
    }
}

/// Every record has an end, and none of `seq`'s kind was dropped.
fn all_end(gate: &mut Client) {
    let begun = Instant::now();
    while !gate.log(u64::MAX, 0, Duration::ZERO).expect("the log").open.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "records stay open");
        std::thread::yield_now();
    }
}

/// A process with a direct read or write of all of `f` under way.
fn asker(mount: &Mount, op: &str) -> Child {
    let file = mount.path("f").display().to_string();
    let (from, to, flag) = match op {
        "read" => (file, "/dev/null".to_owned(), "iflag=direct"),
        _ => ("/dev/zero".to_owned(), file, "oflag=direct"),
    };
    let child = Command::new("dd")
        .args(["status=none", "conv=notrunc", "count=1", flag, &format!("bs={LEN}")])
        .args([format!("if={from}"), format!("of={to}")])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    child.expect("dd runs")
}

fn end(child: &mut Child) -> std::process::ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "the call of the client does not end");
        std::thread::yield_now();
    }
}

#[test]
fn a_queued_request_is_not_read_until_it_is_released() {
    with_gate("", |mount, gate| {
        let memory = Arc::new(Memory::filled(0xEE));
        let rule = gate.park(Rule::at(Phase::Queued).op("read").path("/f")).expect("a rule");
        let last = gate.list().expect("a gate").last_seq;
        let read = transfer(mount, "read", &memory);
        let seq = meet(gate, rule);
        assert_eq!(seq, last + 1, "nothing else was received");
        let parked = &gate.list().expect("a gate").parked[0];
        assert_eq!((parked.phase, parked.op.as_str(), parked.unique), (Phase::Queued, "?", 0));
        assert_eq!(memory.pages(), [0xEE; PAGES]);
        // It is not the server's yet.
        for refused in [gate.fail(seq, 5), gate.short(seq, 5), gate.discard(seq)] {
            let text = refused.expect_err("it is in the kernel").to_string();
            assert!(text.contains("can only be released"), "{text}");
        }
        let second = gate.park(Rule::at(Phase::Queued).op("read")).expect_err("one at a time");
        assert!(second.to_string().contains("another rule holds 'queued'"), "{second}");
        assert_eq!(gate.release(seq).expect("a gate"), 1);
        assert_eq!(read.join().expect("no panic"), Ok(LEN));
        assert_eq!(memory.pages(), own_pages());
        let record = record(gate, seq);
        assert_eq!(
            (record.op.as_str(), record.len, record.outcome),
            ("read", LEN as u64, Some(Outcome::Bytes(LEN as u64)))
        );
        assert_eq!(record.phase(), Some(Phase::Piped));
        assert!(record.times.queued < record.times.phases[0], "{record:?}");
        let hold = &record.holds[0];
        assert_eq!(
            (hold.phase, hold.by, hold.rule),
            (Phase::Queued, Some(ReleasedBy::Client), rule)
        );
        assert!(!record.voided());
        // Once: the next one is not held, and the rule is still there to be ended.
        let read = transfer(mount, "read", &memory);
        assert_eq!(read.join().expect("no panic"), Ok(LEN));
        assert_eq!(gate.unpark(rule).expect("it stays"), 0);
    });
}

#[test]
fn another_request_in_front_voids_the_window() {
    with_gate("", |mount, gate| {
        let rule = gate.park(Rule::at(Phase::Queued).op("read").path("/f")).expect("a rule");
        let other = mount.path("d");
        let other = std::thread::spawn(move || fs::create_dir(other));
        let seq = meet(gate, rule);
        gate.release(seq).expect("a gate");
        other.join().expect("no panic").expect("mkdir");
        let record = record(gate, seq);
        assert_eq!((record.outcome, record.op.as_str()), (Some(Outcome::Withdrawn), "?"));
        assert_eq!(record.holds[0].by, Some(ReleasedBy::Overtaken));
        assert!(record.voided());
    });
}

#[test]
fn a_queued_rule_that_ends_opens_what_it_shut() {
    with_gate("", |mount, gate| {
        let memory = Arc::new(Memory::filled(0));
        // Nothing had come.
        let rule = gate.park(Rule::at(Phase::Queued).op("read")).expect("a rule");
        gate.unpark(rule).expect("a rule");
        assert_eq!(transfer(mount, "read", &memory).join().expect("no panic"), Ok(LEN));
        // Its time is up, and its connection ends, while something waits.
        gate.park(Rule::at(Phase::Queued).op("read").ttl_ms(50)).expect("a rule");
        assert_eq!(transfer(mount, "read", &memory).join().expect("no panic"), Ok(LEN));
        let socket = mount.dir.with_file_name("gate");
        let mut second = Client::connect(&socket).expect("a gate");
        let rule = second.park(Rule::at(Phase::Queued).op("read")).expect("a rule");
        let read = transfer(mount, "read", &memory);
        let seq = meet(&mut second, rule);
        drop(second);
        assert_eq!(read.join().expect("no panic"), Ok(LEN));
        let record = record(gate, seq);
        assert!(record.voided() && record.op == "read", "{record:?}");
        assert!(gate.list().expect("a gate").watchdog_releases >= 1);
        // A delay needs nobody.
        let delay = Rule::at(Phase::Queued).op("read").action(Action::Delay(5));
        gate.park(delay).expect("a rule");
        assert_eq!(transfer(mount, "read", &memory).join().expect("no panic"), Ok(LEN));
    });
}

#[test]
fn a_client_that_is_killed_takes_its_queued_request_along() {
    if !can_mount() {
        return;
    }
    let place = Place::new(32);
    let (mount, mut gate) = gated(&place, "");
    let rule = gate.park(Rule::at(Phase::Queued).op("setattr").path("/f")).expect("a rule");
    // (A direct read or write is the kernel's own by then, and its process waits for it.)
    let chmod = Command::new("chmod").arg("600").arg(mount.path("f")).stdin(Stdio::null()).spawn();
    let mut child = chmod.expect("chmod runs");
    let seq = meet(&mut gate, rule);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).expect("kill");
    // It does not wait for the server, which never had the request.
    assert_eq!(end(&mut child).signal(), Some(libc::SIGKILL));
    gate.release(seq).expect("a gate");
    let record = record(&mut gate, seq);
    assert_eq!(record.outcome, Some(Outcome::Withdrawn), "{record:?}");
    assert!(!record.voided(), "{record:?}");
    gate.unpark(rule).expect("a rule");
    assert_eq!(fs::metadata(mount.path("f")).expect("stat").mode() & 0o777, 0o644);
    all_end(&mut gate);
    mount.umount();
    ok(&["fsck", place.image()]);
}

#[test]
fn an_abort_while_a_request_is_queued_ends_everything() {
    if !can_mount() {
        return;
    }
    for op in ["read", "write"] {
        let place = Place::new(32);
        let (mount, mut gate) = gated(&place, "");
        let server = mount.server();
        let memory = Arc::new(Memory::filled(7));
        let rule = gate.park(Rule::at(Phase::Queued).op(op)).expect("a rule");
        let transfer = transfer(&mount, op, &memory);
        meet(&mut gate, rule);
        mount.abort();
        let done = transfer.join().expect("no panic");
        assert!(matches!(done, Err(libc::ECONNABORTED | libc::ENOTCONN)), "{op}: {done:?}");
        drop(gate);
        wait_for_end(server);
        drop(mount);
        ok(&["fsck", place.image()]);
    }
}

/// Waits for the end of a process that is not our child.
fn wait_for_end(process: i32) {
    let begun = Instant::now();
    let lives = || match fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")),
        Err(_) => false,
    };
    while lives() {
        assert!(begun.elapsed() < PATIENCE, "the server does not end");
        std::thread::yield_now();
    }
}

#[test]
fn a_write_is_held_in_the_middle_of_its_copy() {
    for page in [0, 5, PAGES - 1] {
        with_gate("", |mount, gate| {
            let memory = Arc::new(Memory::filled(100));
            let rule = Rule::at(Phase::Copying).op("write").path("/f").page(page as u64);
            let rule = gate.park(rule).expect("a rule");
            let write = transfer(mount, "write", &memory);
            let seq = meet(gate, rule);
            let parked = &gate.list().expect("a gate").parked[0];
            assert_eq!(
                (parked.phase, parked.op.as_str(), parked.len),
                (Phase::Copying, "write", LEN as u64)
            );
            // The rest of the mount works.
            fs::create_dir(mount.path("d")).expect("mkdir");
            fs::write(mount.path("g"), [1; 3 * PAGE]).expect("write");
            // What was copied stays; what was not is what it is when it goes on.
            (0..PAGES).for_each(|page| memory.fill(page, 101));
            gate.release(seq).expect("a gate");
            assert_eq!(write.join().expect("no panic"), Ok(LEN));
            let found = fs::read(mount.path("f")).expect("read");
            let found: Vec<u8> = found.chunks(PAGE).map(|page| page[0]).collect();
            let copied: Vec<u8> = (0..PAGES).map(|at| if at < page { 100 } else { 101 }).collect();
            assert_eq!(found, copied, "stopped at {page}");
            let record = record(gate, seq);
            assert_eq!(
                (record.holds[0].phase, record.outcome),
                (Phase::Copying, Some(Outcome::Bytes(LEN as u64)))
            );
            assert!(
                record.times.copying < record.times.phases[0] && !record.voided(),
                "{record:?}"
            );
            // Another one is held in the same memory.
            let write = transfer(mount, "write", &memory);
            let seq = meet(gate, rule);
            gate.unpark(rule).expect("a rule");
            assert_eq!(write.join().expect("no panic"), Ok(LEN));
            assert!(gate.wait_done(seq, PATIENCE).expect("a gate").reached);
            assert_eq!(transfer(mount, "write", &memory).join().expect("no panic"), Ok(LEN));
        });
    }
}

#[test]
fn a_read_is_held_in_the_middle_of_its_copy() {
    for (page, read) in [(0, "auto"), (5, "direct"), (PAGES - 1, "copy")] {
        with_gate(&format!("read={read}"), |mount, gate| {
            let memory = Arc::new(Memory::filled(0xEE));
            let rule = Rule::at(Phase::Copying).op("read").path("/f").page(page as u64);
            let rule = gate.park(rule).expect("a rule");
            let read = transfer(mount, "read", &memory);
            let seq = meet(gate, rule);
            // O_DIRECT has no other place for them than the memory itself.
            let half: Vec<u8> =
                (0..PAGES).map(|at| if at < page { at as u8 + 1 } else { 0xEE }).collect();
            assert_eq!(memory.pages(), half, "stopped at {page}");
            fs::create_dir(mount.path("d")).expect("mkdir");
            gate.release(seq).expect("a gate");
            assert_eq!(read.join().expect("no panic"), Ok(LEN));
            assert_eq!(memory.pages(), own_pages());
            let record = record(gate, seq);
            assert_eq!(record.holds[0].phase, Phase::Copying);
            assert!(
                record.times.copying > record.times.phases[3] && !record.voided(),
                "{record:?}"
            );
            gate.unpark(rule).expect("a rule");
        });
    }
}

#[test]
fn an_abort_in_the_middle_of_a_copy_leaves_the_memory_alone() {
    if !can_mount() {
        return;
    }
    for op in ["read", "write"] {
        let place = Place::new(32);
        let (mount, mut gate) = gated(&place, "");
        let server = mount.server();
        let memory = Arc::new(Memory::filled(0xEE));
        let rule = gate.park(Rule::at(Phase::Copying).op(op).path("/f").page(3)).expect("a rule");
        let transfer = transfer(&mount, op, &memory);
        let seq = meet(&mut gate, rule);
        mount.abort();
        // The call ends before the copy is released, and its memory is the program's again.
        let done = transfer.join().expect("no panic");
        assert!(matches!(done, Err(libc::ECONNABORTED | libc::ENOTCONN)), "{op}: {done:?}");
        (0..PAGES).for_each(|page| memory.fill(page, 0xDD));
        gate.release(seq).expect("it is still parked");
        let _ = gate.wait_done(seq, PATIENCE);
        drop(gate);
        wait_for_end(server);
        assert_eq!(memory.pages(), [0xDD; PAGES], "{op}");
        drop(mount);
        let mount = place.mount("", &[]);
        let found = fs::read(mount.path("f")).expect("read");
        let found: Vec<u8> = found.chunks(PAGE).map(|page| page[0]).collect();
        assert_eq!(found, own_pages(), "{op}");
        mount.umount();
    }
}

#[test]
fn a_client_that_is_killed_in_the_middle_of_a_copy_ends_with_it() {
    if !can_mount() {
        return;
    }
    for op in ["read", "write"] {
        let place = Place::new(32);
        let (mount, mut gate) = gated(&place, "");
        let rule = gate.park(Rule::at(Phase::Copying).op(op).path("/f").page(3)).expect("a rule");
        let mut child = asker(&mount, op);
        let seq = meet(&mut gate, rule);
        kill(Pid::from_raw(child.id() as i32), Signal::SIGKILL).expect("kill");
        gate.release(seq).expect("a gate");
        assert_eq!(end(&mut child).signal(), Some(libc::SIGKILL), "{op}");
        record(&mut gate, seq);
        gate.unpark(rule).expect("a rule");
        all_end(&mut gate);
        mount.umount();
        ok(&["fsck", place.image()]);
    }
}

#[test]
fn transports_without_windows_say_so_in_one_line() {
    if !can_mount() {
        return;
    }
    for transport in ["uring", "fuser"] {
        let place = Place::new(32);
        let (mount, mut gate) = gated(&place, &format!("transport={transport}"));
        for phase in Phase::KERNEL {
            let said = gate.park(Rule::at(phase).op("read")).expect_err("no window").to_string();
            assert!(
                said.contains(transport) && said.contains("mount with transport=dev"),
                "{said}"
            );
            assert_eq!(said.lines().count(), 1);
        }
        mount.umount();
    }
}

#[test]
fn rules_that_no_window_has_are_refused() {
    with_gate("", |_, gate| {
        let refused = |gate: &mut Client, rule: Rule, why: &str| {
            let said = gate.park(rule).expect_err("it means nothing").to_string();
            assert!(said.contains(why), "{said}");
        };
        refused(gate, Rule::at(Phase::Copying).op("mkdir"), "only read and write");
        refused(gate, Rule::at(Phase::Received).page(1), "'copying'");
        refused(gate, Rule::at(Phase::Copying).action(Action::Fail(5)), "parked or delayed");
        refused(gate, Rule::at(Phase::Queued).nth(2), "nth");
        refused(gate, Rule::at(Phase::Copying).op("write").page(1 << 40), "no WRITE");
        let rule = gate.park(Rule::at(Phase::Copying)).expect("a rule");
        refused(gate, Rule::at(Phase::Copying).op("write"), "another rule");
        gate.unpark(rule).expect("a rule");
        let rule = gate.park(Rule::at(Phase::Copying)).expect("free again");
        gate.unpark(rule).expect("a rule");
    });
}

#[test]
fn the_kernel_is_told_something_on_command() {
    with_gate("", |mount, gate| {
        let ino = fs::metadata(mount.path("f")).expect("stat").ino();
        let notify = |gate: &mut Client, notice| gate.notify(notice, PATIENCE).expect("a gate");
        let taken = Notified { is_over: true, errno: None };
        // What is stored is what a cached reader sees, and what is invalidated is asked for again.
        assert_eq!(fs::read(mount.path("f")).expect("read")[0], 1);
        let store = Notice::Store { ino, offset: 0, data: vec![0x55; PAGE] };
        assert_eq!(notify(gate, store), taken);
        assert_eq!(fs::read(mount.path("f")).expect("read")[..PAGE], [0x55; PAGE]);
        assert_eq!(notify(gate, Notice::Inval { ino, offset: 0, len: 0 }), taken);
        assert_eq!(fs::read(mount.path("f")).expect("read")[..PAGE], [1; PAGE]);
        assert_eq!(notify(gate, Notice::Retrieve { ino, offset: 0, size: PAGE as u32 }), taken);
        let unknown = notify(gate, Notice::Inval { ino: 1 << 40, offset: 0, len: 0 });
        assert_eq!(unknown, Notified { is_over: true, errno: Some(libc::ENOENT) });
        // What is parked comes once more, and the answer under its old number is nobody's.
        let rule = gate.park(Rule::at(Phase::Received).op("read").path("/f")).expect("a rule");
        let memory = Arc::new(Memory::filled(0xEE));
        let read = transfer(mount, "read", &memory);
        let first = meet(gate, rule);
        assert_eq!(notify(gate, Notice::Resend), taken);
        let wait = gate.wait_parked(Some(rule), 2, PATIENCE).expect("a gate");
        assert!(wait.reached, "it is not sent again");
        assert_eq!(wait.parked[1].unique, wait.parked[0].unique | 1 << 63);
        gate.release(first).expect("parked");
        assert!(gate.wait_done(first, PATIENCE).expect("a gate").reached);
        assert_eq!(memory.pages(), [0xEE; PAGES]);
        gate.unpark(rule).expect("a rule");
        assert_eq!(read.join().expect("no panic"), Ok(LEN));
        assert_eq!(memory.pages(), own_pages());
    });
}

#[test]
fn rules_that_end_while_they_are_made_leave_the_way_in_open() {
    with_gate("", |mount, gate| {
        let memory = Arc::new(Memory::filled(0));
        let mut made = 0;
        for _ in 0..100 {
            let read = transfer(mount, "read", &memory);
            // The last one may not be over yet: one at a time.
            made += u32::from(gate.park(Rule::at(Phase::Queued).op("read").ttl_ms(1)).is_ok());
            assert_eq!(read.join().expect("no panic"), Ok(LEN));
        }
        assert!(made > 0, "not one rule was made");
        assert_eq!(transfer(mount, "read", &memory).join().expect("no panic"), Ok(LEN));
    });
}
