//! Every call that a fixed workload makes to its disk fails, in every way there is, once and for
//! ever; others get stuck; and a change panics.

mod bounded;
#[path = "../reference/mod.rs"]
mod reference;
mod stage;

use bounded::bounded;
use inflight::disk::{Call, Fault, Plan};
use inflight::errno::{Errno, Error};
use inflight::image::mkfs::ROOT;
use inflight::ops::{Caller, Make};
use reference::Op::{Create, Fsync, Sync, Write};
use reference::View;
use stage::Stage;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const FAULTS: [Fault; 3] = [Fault::Errno(libc::EIO), Fault::Errno(libc::ENOSPC), Fault::Short];

/// Runs the workload with a fault; returns how many operations met it.
fn faulty(stage: &Arc<Stage>, plan: Plan) -> Result<u32, String> {
    let own = stage.clone();
    let result = bounded(move || {
        let outcome = own.run(plan);
        own.judge(&outcome).map(|()| outcome.errors)
    });
    result.and_then(|judged| judged).map_err(|e| format!("{plan:?}: {e}"))
}

#[test]
fn every_call_that_fails_is_reported_and_costs_nothing_that_was_promised() {
    let stage = Arc::new(Stage::new(stage::BLOCKS));
    let calls = stage.calls(None);
    let (mut faults, mut met, mut wrong) = (0, 0, Vec::new());
    for after in 0..calls {
        for fault in FAULTS {
            for forever in [false, true] {
                faults += 1;
                match faulty(&stage, Plan { call: None, after, forever, fault }) {
                    Ok(errors) => met += u32::from(errors > 0),
                    Err(e) => wrong.push(e),
                }
            }
        }
    }
    println!("{calls} calls, {faults} faults, {met} of them met by an operation");
    wrong.iter().take(20).for_each(|e| println!("{e}"));
    assert_eq!(wrong.len(), 0, "faults after which something was wrong");
    assert!(met > faults / 2, "most calls matter");
}

#[test]
fn a_call_that_is_stuck_is_waited_for_and_nothing_is_lost() {
    let stage = Arc::new(Stage::new(stage::BLOCKS));
    for after in 0..stage.calls(None) {
        let own = stage.clone();
        let result = bounded(move || {
            let (below, disk) = own.disk();
            disk.plan(Some(Plan { call: None, after, forever: false, fault: Fault::Stuck }));
            std::thread::scope(|scope| {
                let run = scope.spawn(|| own.play(&below, &disk));
                while disk.failed() == 0 && !run.is_finished() {
                    std::thread::yield_now();
                }
                disk.release();
                let outcome = run.join().expect("no panic");
                assert_eq!(outcome.errors, 0, "nothing failed");
                own.judge(&outcome)
            })
        });
        result.and_then(|judged| judged).unwrap_or_else(|e| panic!("call {after} stuck: {e}"));
    }
}

#[test]
fn lookups_and_attributes_do_not_wait_for_a_flush_that_is_stuck() {
    let stage = Stage::new(stage::BLOCKS);
    let result = bounded(move || {
        let (_, disk) = stage.disk();
        let mut player = stage.open(disk.clone()).expect("mount");
        player.play(&Create("b")).expect("create");
        disk.plan(Some(Plan {
            call: Some(Call::Sync),
            after: 0,
            forever: true,
            fault: Fault::Stuck,
        }));
        let fs = &player.fs;
        std::thread::scope(|scope| {
            let sync = scope.spawn(|| fs.syncfs());
            while disk.failed() == 0 {
                std::thread::yield_now();
            }
            // In the cache or not: they come from a snapshot.
            let entry = fs.lookup(ROOT, b"d").expect("lookup");
            assert!(fs.getattr(entry.ino).expect("attributes").attr.is_dir());
            assert_eq!(fs.lookup(entry.ino, b"nothing").err(), Some(Errno::ENOENT));
            assert!(!sync.is_finished());
            disk.release();
            sync.join().expect("no panic").expect("sync");
        });
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_panic_inside_a_change_breaks_the_store_for_everybody_at_once() {
    // With room enough that nothing but an fsync makes a commit.
    let stage = Stage::new(16 * stage::BLOCKS);
    let result = bounded(move || {
        let (below, disk) = stage.disk();
        let player = stage.open(disk.clone()).expect("mount");
        let fs = &player.fs;
        let made = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|worker| {
                    let made = &made;
                    scope.spawn(move || {
                        (0..).find_map(|number| {
                            while number == 20 && !fs.volume().store().is_shut_down() {
                                std::thread::yield_now();
                            }
                            let name = format!("w{worker}-{number}");
                            let make = Make {
                                caller: Caller::default(),
                                parent: ROOT,
                                name: name.as_bytes(),
                                mode: libc::S_IFREG | 0o644,
                                umask: 0,
                                rdev: 0,
                                target: None,
                                security: &[],
                            };
                            made.fetch_add(1, SeqCst);
                            fs.make(&make).err()
                        })
                    })
                })
                .collect();
            while made.load(SeqCst) < 30 {
                std::thread::yield_now();
            }
            let store = fs.volume().store();
            let answer = store.change(|_| -> Result<(), Error> { panic!("provoked") });
            assert!(answer.is_err());
            assert!(store.is_shut_down(), "before anybody else gets the lock");
            for worker in workers {
                assert_eq!(worker.join().expect("no panic"), Some(Errno::EIO));
            }
        });
        assert_eq!(fs.syncfs(), Err(Errno::EIO));
        let durable = fs.volume().store().durable();
        assert!(player.unmount().is_err(), "what came after the last commit is lost");
        // Not one of the changes since the last commit is there, nor half of one.
        assert_eq!(durable, 0, "nobody asked for a commit");
        let left = below.cut(|_| true).expect("inside the disk");
        let again = stage.open(Arc::new(left)).expect("remount");
        let view = View::read(again.fs.volume()).expect("readable");
        assert!(view.names.keys().all(|name| !name.starts_with('w')));
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_flush_that_failed_is_reported_by_every_fsync_until_a_remount() {
    let stage = Stage::new(stage::BLOCKS);
    let (below, disk) = stage.disk();
    let mut player = stage.open(disk.clone()).expect("mount");
    player.play(&Write("a", 0, 5000)).expect("write");
    player.play(&Create("b")).expect("create");
    let fault = Fault::Errno(libc::EIO);
    disk.plan(Some(Plan { call: Some(Call::Sync), after: 0, forever: false, fault }));
    for op in [Fsync("a"), Fsync("b"), Fsync("d/a"), Sync, Fsync("a")] {
        assert_eq!(player.play(&op), Err(Errno::EIO), "{op:?}");
    }
    assert_eq!(player.play(&Create("c")), Err(Errno::EIO));
    assert!(player.unmount().is_err());
    let left = below.cut(|_| false).expect("inside the disk");
    let mut again = stage.open(Arc::new(left)).expect("remount");
    for op in [Fsync("a"), Create("b"), Sync] {
        assert_eq!(again.play(&op), Ok(()), "{op:?}");
    }
}

#[test]
fn a_remount_after_a_failed_flush_believes_the_disk_and_not_the_page_cache() {
    let stage = Stage::new(stage::BLOCKS);
    for after in 0..stage.calls(Some(Call::Sync)) {
        let (below, disk) = stage.disk();
        let fault = Fault::Errno(libc::EIO);
        disk.plan(Some(Plan { call: Some(Call::Sync), after, forever: false, fault }));
        stage.play(&below, &disk);
        // The server is started again on a machine that runs on, and its page cache with it.
        let mut player = stage.open(below.clone()).expect("remount");
        let shown = View::read(player.fs.volume()).expect("readable");
        player.play(&Sync).expect("sync");
        player.play(&Create("z")).expect("create");
        player.play(&Sync).expect("sync");
        let left = below.cut(|_| false).expect("inside the disk");
        let again = stage.open(Arc::new(left)).expect("remount after the power went");
        let mut there = View::read(again.fs.volume()).expect("readable");
        let new = there.names.remove("z").expect("it was synced");
        there.nodes.remove(&new);
        assert_eq!(there.names, shown.names, "flush {after} failed");
        for (ino, node) in shown.nodes.iter().filter(|(ino, _)| **ino != ROOT) {
            assert!(there.nodes[ino] == *node, "flush {after} failed, inode {ino}");
        }
    }
}
