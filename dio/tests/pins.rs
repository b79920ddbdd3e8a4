//! The pool's pins, seen from outside. One test in a process of its own: the counters are per
//! process, and other tests would move them.

use inflight_dio::{Backing, PinKind, Pool, PoolConfig, Registration, SLAB};

/// `VmPin` of this process in bytes: what io_uring registration and RDMA pin (proc_pid_status(5)).
fn pinned() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmPin:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// The flags of the mapping that holds `address`; "dc" is "do not copy area on fork"
/// (proc_pid_smaps(5)).
fn flags_of(address: usize) -> Vec<String> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let ends = line.split(' ').next().and_then(|range| range.split_once('-'));
        if let Some((from, to)) = ends {
            let number = |s| usize::from_str_radix(s, 16).unwrap_or(0);
            inside = (number(from)..number(to)).contains(&address);
        } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
            return flags.split_whitespace().map(str::to_owned).collect();
        }
    }
    panic!("{address:#x} is not mapped");
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
    assert!(flags_of(buf.as_ptr() as usize).contains(&"dc".to_owned()), "left out of a child");
    drop(pool);
    assert_eq!(pinned(), before + 2 * SLAB, "a live buffer keeps its slab pinned");
    drop(buf);
    assert_eq!(pinned(), before);

    let plain = PoolConfig { slabs: 2, registration: Registration::Off, huge: false };
    let pool = Pool::new(plain).unwrap();
    assert_eq!((pool.report().pin, pool.report().backing), (PinKind::None, Backing::Base));
    assert_eq!(pinned(), before);
}
