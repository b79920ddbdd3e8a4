//! Threads that fsync at the same time share commits, and the power goes in the middle of it: what
//! each of them was told is there.

use crate::reference::{Data, Frozen, Player};
use crate::run::{Stage, seed};
use inflight::disk::{Disk, SECTOR, VolatileDisk};
use inflight::errno::Errno;
use inflight::fsck;
use inflight::image::mkfs::ROOT;
use inflight::ops::{Caller, Fs, Make, WriteArgs};
use inflight::volume::Volume;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

const THREADS: usize = 4;
const CUTS: u64 = 1000;

/// What a thread was told: its file has this number in each of its sectors, and this name is there.
#[derive(Default)]
struct Told {
    number: AtomicU64,
    stop: AtomicBool,
}

/// Ends the threads, also when the test fails.
struct Stop<'a>(&'a [Told]);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|told| told.stop.store(true, SeqCst));
    }
}

fn make(fs: &Fs, name: &str) -> Result<u64, Errno> {
    let entry = fs.make(&Make {
        caller: Caller::default(),
        parent: ROOT,
        name: name.as_bytes(),
        mode: libc::S_IFREG | 0o644,
        umask: 0,
        rdev: 0,
        target: None,
        security: &[],
    })?;
    Ok(entry.ino)
}

/// Writes the number `number` over a few sectors of a file, the file's last ones new to it.
fn write(fs: &Fs, ino: u64, number: u64) -> Result<(), Errno> {
    let sector = [number.to_le_bytes().as_slice(), &[0; SECTOR as usize - 8]].concat();
    let args = WriteArgs {
        ino,
        offset: 0,
        direct: false,
        append: false,
        cached: false,
        kill_suidgid: false,
    };
    fs.write(&args, &sector.repeat(1 + number as usize % 24)).map(drop)
}

/// Fills the file of one thread and renames a second one again and again, and notes what was
/// promised.
fn work(fs: &Fs, thread: usize, told: &Told) -> Result<(), Errno> {
    let ino = make(fs, &format!("file-{thread}"))?;
    make(fs, &format!("name-{thread}-0"))?;
    for number in 1.. {
        if told.stop.load(SeqCst) {
            break;
        }
        write(fs, ino, number)?;
        let name = |number: u64| format!("name-{thread}-{number}");
        let (old, new) = (name(number - 1), name(number));
        fs.rename(Caller::default(), (ROOT, old.as_bytes()), (ROOT, new.as_bytes()), 0)?;
        fs.fsync(ino, false)?;
        // The name is that of another file, and somebody else's commit may have taken this one
        // along: then its fsync makes none.
        fs.fsyncdir()?;
        told.number.store(number, SeqCst);
    }
    Ok(())
}

/// What thread `thread` was told is there; it had begun number `newest`.
fn check(volume: &Volume, thread: usize, told: u64, newest: u64) -> Result<(), String> {
    let lookup = |name: String| volume.lookup(ROOT, name.as_bytes()).map_err(|e| e.to_string());
    let Some(ino) = lookup(format!("file-{thread}"))? else {
        return if told == 0 { Ok(()) } else { Err("the file is gone".into()) };
    };
    let inode = volume.inode(ino).map_err(|e| e.to_string())?;
    let plan = volume.plan_read(&inode, 0, 1 << 20).map_err(|e| e.to_string())?;
    for piece in &plan.pieces {
        let inflight::data::ReadPiece::Data { offset, len } = *piece else {
            return Err("a hole in a file without holes".into());
        };
        let mut bytes = vec![0; len];
        volume.store().disk().read(offset, &mut bytes).map_err(|e| e.to_string())?;
        for sector in bytes.chunks(SECTOR as usize) {
            let number = u64::from_le_bytes(sector[..8].try_into().expect("8 bytes"));
            // Sectors behind those of the newest write are of an older one.
            if !(1..=newest).contains(&number) || sector[8..].iter().any(|byte| *byte != 0) {
                return Err(format!("a sector has {number}, {told} was promised"));
            }
        }
        let first = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
        if std::ptr::eq(piece, &plan.pieces[0]) && first < told {
            return Err(format!("the file has {first}, {told} was promised"));
        }
    }
    let names = (told..=newest).map(|n| lookup(format!("name-{thread}-{n}")));
    let there = names.collect::<Result<Vec<_>, _>>()?.iter().flatten().count();
    // Before the first promise it may not be made yet.
    if there == 1 || there == 0 && told == 0 {
        Ok(())
    } else {
        Err(format!("{there} names from {told} to {newest}, where one is to be"))
    }
}

#[test]
fn threads_that_fsync_at_once_are_all_told_the_truth() {
    let (stage, data) = (Stage::new(&[]), Data::default());
    let disk = Arc::new(VolatileDisk::new(&stage.disk));
    let player = Player::open(disk.clone(), &data).expect("mount");
    let (fs, told) = (&player.fs, <[Told; THREADS]>::default());
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    std::thread::scope(|scope| {
        let _stop = Stop(&told);
        for (thread, told) in told.iter().enumerate() {
            scope.spawn(move || work(fs, thread, told).expect("nothing fails"));
        }
        for cut in 0..CUTS {
            // Some more was done since the last cut.
            while told.iter().map(|t| t.number.load(SeqCst)).sum::<u64>() < cut {
                std::thread::yield_now();
            }
            let before: Vec<u64> = told.iter().map(|t| t.number.load(SeqCst)).collect();
            let likely = [0.0, 0.5, 1.0][rng.random_range(0..3)];
            let left = disk.cut(|_| rng.random_bool(likely)).expect("inside the disk");
            let newest: Vec<u64> = told.iter().map(|t| t.number.load(SeqCst) + 1).collect();
            let frozen: Arc<dyn Disk> = Arc::new(Frozen(left.fork()));
            let found = fsck::inspect(&frozen).expect("a filesystem").found;
            assert_eq!(found.errors, 0, "{:?}", found.list);
            let again = Player::open(Arc::new(left), &data).expect("remount");
            for (thread, (told, newest)) in before.into_iter().zip(newest).enumerate() {
                check(again.fs.volume(), thread, told, newest)
                    .unwrap_or_else(|e| panic!("cut {cut}, thread {thread}: {e}"));
            }
        }
    });
    let rounds: u64 = told.iter().map(|t| t.number.load(SeqCst)).sum();
    let commits = fs.volume().store().durable();
    println!("{CUTS} cuts, {rounds} rounds, {commits} commits");
}
