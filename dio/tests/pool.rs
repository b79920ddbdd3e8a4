//! What the pool promises about buffers.

use std::collections::HashSet;
use std::sync::{Arc, Barrier};

use inflight_dio::{Pool, PoolConfig, PoolError, Registration, SLAB, page_size};

fn pool(slabs: usize) -> Pool {
    Pool::new(PoolConfig { slabs, ..PoolConfig::default() }).unwrap()
}

#[test]
fn a_buffer_is_page_aligned_and_as_long_as_asked() {
    let pool = pool(2);
    for len in [0, 1, 4096, 4097, 65536, 1 << 20, SLAB, SLAB + 1, 5 << 20] {
        let mut buf = pool.take(len);
        assert_eq!(buf.as_ptr() as usize % page_size(), 0);
        assert_eq!(buf.len(), len);
        assert!(buf.capacity() >= len && buf.capacity().is_multiple_of(page_size()));
        assert_eq!(buf.is_pooled(), len <= SLAB);
        buf.fill_zero();
        assert!(buf.as_slice().iter().all(|&b| b == 0));
        buf.truncate(10);
        assert_eq!(buf.len(), len.min(10));
    }
    assert_eq!((pool.report().in_use, pool.report().fallbacks), (0, 2));
}

#[test]
fn an_exhausted_pool_falls_back_and_never_refuses() {
    let pool = pool(1);
    let hold: Vec<_> = (0..600).map(|_| pool.take(page_size())).collect();
    let addresses: HashSet<_> = hold.iter().map(|b| b.as_ptr()).collect();
    assert_eq!(addresses.len(), 600, "no two live buffers share memory");
    let pooled = hold.iter().filter(|b| b.is_pooled()).count();
    assert_eq!(pooled, SLAB / page_size());
    assert_eq!(pool.report().in_use, SLAB);
    assert_eq!(pool.report().fallbacks as usize, 600 - pooled);
    drop(hold);
    assert!(pool.take(SLAB).is_pooled(), "the pieces merged again");
}

#[test]
fn a_pool_without_slabs_still_gives_buffers() {
    let pool = pool(0);
    let mut buf = pool.take(100);
    buf.as_mut_slice().fill(3);
    assert!(!buf.is_pooled());
    assert_eq!((pool.report().bytes, pool.report().fallbacks), (0, 1));
}

#[test]
fn too_many_slabs_are_refused_with_the_limit() {
    let e = Pool::new(PoolConfig { slabs: 1 << 20, ..PoolConfig::default() }).unwrap_err();
    assert!(matches!(e, PoolError::TooLarge { slabs: 1048576, max: 16384 }));
    assert!(e.to_string().contains("16384"), "{e}");
}

#[test]
fn threads_never_get_the_same_memory() {
    let pool = pool(2);
    let start = Arc::new(Barrier::new(4));
    let threads: Vec<_> = (0..4u8)
        .map(|me| {
            let (pool, start) = (pool.clone(), Arc::clone(&start));
            std::thread::spawn(move || {
                start.wait();
                for round in 0..500usize {
                    let mut held: Vec<_> =
                        (0..4).map(|i| pool.take(4096 << ((round + i) % 6))).collect();
                    held.iter_mut().for_each(|b| b.as_mut_slice().fill(me));
                    assert!(held.iter().all(|b| b.as_slice().iter().all(|&x| x == me)));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(pool.report().in_use, 0);
}

#[test]
#[should_panic(expected = "exceeds capacity")]
fn a_length_beyond_the_capacity_is_a_bug_of_the_caller() {
    pool(1).take(4096).set_len(8193);
}

#[test]
fn mlock_instead_of_io_uring_is_possible_and_reported() {
    let config = PoolConfig { slabs: 1, registration: Registration::Mlock, huge: true };
    let report = Pool::new(config).unwrap().report();
    match report.pin {
        inflight_dio::PinKind::Mlock => assert_eq!(report.pinned_bytes, SLAB),
        other => assert!(!report.reasons.is_empty(), "{other:?} without a reason"),
    }
}
