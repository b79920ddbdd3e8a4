//! What is left when the kernel refuses: each test refuses something to its own thread or process.
#![allow(unsafe_code)]

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, mpsc};

use inflight_dio::{
    DirectError, DirectFile, Engine, Op, PinKind, Pool, PoolConfig, QueueKind, Request,
};

/// Makes io_uring_setup(2) fail with EPERM for this thread and those it starts, as container
/// runtimes do.
fn refuse_io_uring() {
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
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: both calls only read their arguments; the program outlives the second.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter), 0);
    }
}

#[test]
fn without_io_uring_the_pool_locks_and_threads_serve_the_queue() {
    let mut image = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    image.write_all(&[5; 1 << 16]).unwrap();
    let file = Arc::new(DirectFile::open(image.path(), false).unwrap());
    std::thread::spawn(move || {
        refuse_io_uring();
        let pool = Pool::new(PoolConfig { slabs: 1, ..PoolConfig::default() }).unwrap();
        let report = pool.report();
        assert_ne!(report.pin, PinKind::IoUring);
        assert!(report.reasons.iter().any(|r| r.contains("io_uring")), "{report:?}");
        let engine = Engine::new(&pool).unwrap();
        assert_eq!(engine.queue_kind(), QueueKind::Workers);
        let (tx, rx) = mpsc::channel();
        for i in 0..16 {
            let (file, tx) = (Arc::clone(&file), tx.clone());
            let buf = pool.take(4096);
            let request = Request { file, buf, offset: i * 4096, len: 4096, op: Op::Read };
            engine.submit(request, Box::new(move |c| tx.send(c).unwrap()));
        }
        drop(tx);
        assert!(rx.iter().all(|c| c.result.unwrap() == 4096 && c.buf.as_slice() == [5; 4096]));
        // User memory is left to the kernel's own pin.
        let mut user = pool.take(8192);
        let mut iter = inflight_dio::iter::IoIter::ubuf(&mut user);
        assert_eq!(engine.read_iter(&file, &mut iter, 0).unwrap(), 8192);
    })
    .join()
    .unwrap();
}

/// Runs in a process of its own, as an ordinary user with the usual 8 MiB of memlock.
#[test]
#[ignore = "started as another user by `cargo test -p inflight-dio --test degrade an_ordinary_user`"]
fn as_an_ordinary_user() {
    let pool = Pool::new(PoolConfig { slabs: 8, ..PoolConfig::default() }).unwrap();
    let report = pool.report();
    println!("{report:?}");
    assert_eq!(report.bytes, 16 << 20);
    assert!(report.pinned_bytes < report.bytes, "the limit is half of the pool");
    assert!(!report.reasons.is_empty());
    let mut buf = pool.take(1 << 20);
    buf.fill_zero();
    assert!(buf.is_pooled());
    let engine = Engine::new(&pool).unwrap();
    let file = DirectFile::open("/proc/self/exe", false).unwrap();
    assert_eq!(engine.read_at(&file, buf, 0, 4096).1.unwrap(), 4096);
}

#[test]
fn an_ordinary_user_gets_a_working_pool() {
    let exe = std::env::current_exe().unwrap();
    let mut child = Command::new(exe);
    child.args(["--exact", "as_an_ordinary_user", "--ignored", "--nocapture"]);
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        child.uid(65534).gid(65534);
    }
    // SAFETY: setrlimit is async-signal-safe and lowers a limit of the child only.
    unsafe {
        child.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: 8 << 20, rlim_max: 8 << 20 };
            match libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let output = match child.output() {
        Ok(output) => output,
        Err(e) => return println!("skipped: cannot run the test as another user: {e}"),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn a_file_without_direct_io_says_so_and_a_missing_one_something_else() {
    let refused = DirectFile::open("/proc/self/status", false).unwrap_err();
    assert!(refused.is_refused(), "{refused}");
    assert!(refused.to_string().contains("/proc/self/status"));
    let missing = DirectFile::open("/no/such/file", false).unwrap_err();
    assert!(matches!(missing, DirectError::Open { .. }) && !missing.is_refused());
}
