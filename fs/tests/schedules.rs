//! The locks under many schedules: `cargo test -p inflight --features schedules --test schedules`.
//!
//! Threads run one at a time, and each lock is a chance for another one to go on. A schedule that fails is printed, and
//! shuttle plays it again.
#![allow(unsafe_code)] // one planted defect

use inflight::errno::Result;
use inflight::image::group_commit::GroupCommit;
use inflight::image::pins::{Pins, Run};
use inflight::mutant::{self, Mutant};
use inflight::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use inflight::sync::{Condvar, Mutex};
use inflight::volume::range_lock::RangeLock;
use inflight_dio::{Pool, PoolConfig, Registration};
use shuttle::thread;
use std::process::Command;
use std::sync::Arc;

/// Schedules of each test.
const SCHEDULES: usize = 20_000;

/// The defect of a caller: it writes to a buffer that it gave back.
const WRITE_LATE: &str = "write-after-give";
/// The defect of a caller: the map of blocks is let go before what it said is pinned.
const PINS_LATE: &str = "pin-after-unlock";

fn defect() -> Option<String> {
    std::env::var("INFLIGHT_MUTANT").ok()
}

/// Explores `test`; in a process that was started for a defect, with it.
fn explore(test: impl Fn() + Send + Sync + 'static) {
    explore_some(SCHEDULES, test);
}

/// As [`explore`], so many schedules.
fn explore_some(schedules: usize, test: impl Fn() + Send + Sync + 'static) {
    if let Some(name) = defect().filter(|name| ![PINS_LATE, WRITE_LATE].contains(&&**name)) {
        let found = Mutant::ALL.iter().find(|mutant| mutant.name() == name);
        mutant::choose(*found.expect("the name of a mutant"));
    }
    shuttle::check_random(test, schedules);
}

fn spawn(tasks: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = tasks.into_iter().map(thread::spawn).collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// Writers of ranges that overlap: never two in one block, and each comes to its turn.
#[test]
fn ranges_are_held_by_one_at_a_time() {
    explore(|| {
        let lock = Arc::new(RangeLock::default());
        let busy: Arc<[AtomicBool; 4]> = Arc::default();
        let write = |range: std::ops::Range<u64>| {
            let (lock, busy) = (lock.clone(), busy.clone());
            let task: Box<dyn FnOnce() + Send> = Box::new(move || {
                let _held = lock.lock(range.clone());
                for block in range.clone() {
                    let was = busy[block as usize].swap(true, SeqCst);
                    assert!(!was, "two writers in block {block}");
                }
                thread::yield_now();
                range.for_each(|block| busy[block as usize].store(false, SeqCst));
            });
            task
        };
        spawn(vec![write(0..4), write(0..2), write(2..4), write(1..3)]);
    });
}

/// Whose range is free goes on, however long another range stays held.
#[test]
fn a_range_that_is_free_waits_for_no_other() {
    explore(|| {
        let lock = Arc::new(RangeLock::default());
        let (held, released) = (lock.lock(0..2), lock.lock(2..4));
        let written = Arc::new((Mutex::new(false), Condvar::default()));
        let blocked = {
            let lock = lock.clone();
            thread::spawn(move || drop(lock.lock(0..1)))
        };
        let free = {
            let (lock, written) = (lock.clone(), written.clone());
            thread::spawn(move || {
                let _held = lock.lock(2..3);
                *written.0.lock() = true;
                written.1.notify_all();
            })
        };
        thread::yield_now();
        drop(released);
        let mut done = written.0.lock();
        while !*done {
            written.1.wait(&mut done);
        }
        drop(done);
        drop(held);
        [blocked, free].into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
}

/// A read of two extents while both are cut off and given away: it sees its own file's bytes.
#[test]
fn a_pinned_block_is_not_given_away() {
    const OWN: u64 = 1;
    const FOREIGN: u64 = 2;
    let pins_late = defect().is_some_and(|name| name == PINS_LATE);
    explore(move || {
        let pins = Arc::new(Pins::default());
        let runs = vec![Run { start: 0, blocks: 1 }, Run { start: 1, blocks: 1 }];
        let map = Arc::new(Mutex::new(runs));
        let blocks: Arc<[AtomicU64; 2]> = Arc::new([OWN, OWN].map(AtomicU64::new));
        let read = {
            let (pins, map, blocks) = (pins.clone(), map.clone(), blocks.clone());
            move || {
                let held = map.lock();
                let runs = held.clone();
                let (held, pin) = if pins_late {
                    drop(held);
                    (None, pins.pin(runs.clone()))
                } else {
                    (Some(held), pins.pin(runs.clone()))
                };
                drop(held);
                for run in &runs {
                    let seen = blocks[run.start as usize].load(SeqCst);
                    assert_eq!(seen, OWN, "block {} is another file's", run.start);
                }
                drop(pin);
            }
        };
        let cut = {
            let (pins, map, blocks) = (pins.clone(), map.clone(), blocks.clone());
            move || {
                let freed = std::mem::take(&mut *map.lock());
                let mut left = freed;
                while !left.is_empty() {
                    let (free, busy) = pins.sort_out(left);
                    free.iter().for_each(|run| blocks[run.start as usize].store(FOREIGN, SeqCst));
                    left = busy;
                    thread::yield_now();
                }
            }
        };
        spawn(vec![Box::new(read.clone()), Box::new(cut), Box::new(read)]);
        assert_eq!(pins.held(), 0, "every pin was released");
    });
}

/// Buffers of all sizes: each is somebody's alone until it is given back, and then the slab is whole again.
#[test]
fn a_buffer_is_one_users_alone() {
    let writes_late = defect().is_some_and(|name| name == WRITE_LATE);
    // Each maps a slab of its own.
    explore_some(SCHEDULES / 2, move || {
        let (huge, registration) = (false, Registration::Off);
        let config = PoolConfig { slabs: 1, huge, registration };
        let pool = Pool::new(config).expect("a slab");
        let user = |id: u8, len: usize| {
            let pool = pool.clone();
            let task: Box<dyn FnOnce() + Send> = Box::new(move || {
                let mut buffer = pool.take(len);
                buffer.as_mut_slice().fill(id);
                thread::yield_now();
                assert!(buffer.as_slice().iter().all(|byte| *byte == id), "somebody wrote to it");
                let first = buffer.as_mut_slice().as_mut_ptr();
                drop(buffer);
                if writes_late {
                    thread::yield_now();
                    // SAFETY: the slab is mapped for as long as the pool is, and threads run one at a time.
                    unsafe { first.write(id) };
                }
            });
            task
        };
        spawn(vec![user(1, 4096), user(2, 5000), user(3, 4096)]);
        assert_eq!(pool.report().in_use, 0);
        let fallbacks = pool.report().fallbacks;
        drop(pool.take(2 << 20));
        assert_eq!(pool.report().fallbacks, fallbacks, "the slab is whole again");
    });
}

/// Whatever was done before the call of a commit is durable when it returns.
#[test]
fn a_commit_covers_what_was_done_before_it_was_asked_for() {
    explore(|| {
        let group = Arc::new(GroupCommit::default());
        let done: Arc<Mutex<Vec<u64>>> = Arc::default();
        let durable: Arc<Mutex<Vec<u64>>> = Arc::default();
        let work = |id: u64| {
            let (group, done, durable) = (group.clone(), done.clone(), durable.clone());
            let task: Box<dyn FnOnce() + Send> = Box::new(move || {
                done.lock().push(id);
                let commit = || -> Result<()> {
                    let snapshot = done.lock().clone();
                    thread::yield_now();
                    *durable.lock() = snapshot;
                    Ok(())
                };
                group.run(|| false, commit).expect("it does not fail");
                assert!(durable.lock().contains(&id), "{id} is not durable");
            });
            task
        };
        spawn(vec![work(1), work(2), work(3), work(4)]);
    });
}

#[test]
fn defects_are_found() {
    let proofs = [
        (Mutant::WakeOneWaiter.name(), "a_range_that_is_free_waits_for_no_other"),
        (WRITE_LATE, "a_buffer_is_one_users_alone"),
        (PINS_LATE, "a_pinned_block_is_not_given_away"),
        (Mutant::JoinRunningCommit.name(), "a_commit_covers_what_was_done_before_it_was_asked_for"),
    ];
    let is_proved = |mutant: &&Mutant| proofs.iter().any(|(name, _)| *name == mutant.name());
    assert_eq!(Mutant::LOCKS.iter().find(|mutant| !is_proved(mutant)), None);
    for (mutant, test) in proofs {
        // A process can have one defect, for as long as it lives.
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", test])
            .env("INFLIGHT_MUTANT", mutant)
            .output()
            .expect("a process");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!output.status.success(), "{mutant} was not found");
        let schedule = said.contains("failing schedule");
        assert!(schedule, "{mutant} did not fail by its schedule: {said}");
    }
}
