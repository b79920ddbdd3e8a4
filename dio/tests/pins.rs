//! The pool's pins, seen from outside. One test in a process of its own: the counters are per
//! process, and other tests would move them.

use inflight_dio::{Backing, PinKind, Pool, PoolConfig, Registration, SLAB};

/// `VmPin` of this process in bytes: what io_uring registration and RDMA pin (proc_pid_status(5)).
fn pinned() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmPin:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn pins_rise_with_the_pool_and_are_back_when_its_last_buffer_is_gone() {
    let before = pinned();
    let pool = Pool::new(PoolConfig { slabs: 2, ..PoolConfig::default() }).unwrap();
    let report = pool.report();
    println!("{report:?}");
    if report.pin != PinKind::IoUring || report.pinned_bytes < report.bytes {
        println!("skipped: {:?}", report.reasons);
        return;
    }
    assert_eq!(report.bytes, 2 * SLAB);
    assert_eq!(pinned(), before + 2 * SLAB);
    let buf = pool.take(4096);
    drop(pool);
    assert_eq!(pinned(), before + 2 * SLAB, "a live buffer keeps its slab pinned");
    drop(buf);
    assert_eq!(pinned(), before);

    let plain = PoolConfig { slabs: 2, registration: Registration::Off, huge: false };
    let pool = Pool::new(plain).unwrap();
    assert_eq!((pool.report().pin, pool.report().backing), (PinKind::None, Backing::Base));
    assert_eq!(pinned(), before);
}
