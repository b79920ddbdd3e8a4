//! Plays workloads and looks at everything that a power cut may leave of them.

use crate::judge::{Counts, Judge};
use crate::reference::{Data, Model, Op, Player};
use crate::states::{Budget, States};
use crate::timeline::Timeline;
use crate::workloads::{self, Workload};
use inflight::disk::{Disk as _, MemoryDisk};
use inflight::image::BLOCK;
use inflight::image::mkfs::{MkfsOptions, format};
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Blocks of the filesystem.
const BLOCKS: u64 = 4096;
/// What free blocks hold in the beginning: bytes that no file ever had.
const FOREIGN: u8 = 0xE6;

/// A disk with a filesystem, and what it holds.
pub struct Stage {
    pub disk: Arc<MemoryDisk>,
    pub model: Model,
    pub data: Data,
}

impl Stage {
    /// Makes a filesystem and plays `ops` on it.
    pub fn new(ops: &[Op]) -> Stage {
        let disk = Arc::new(MemoryDisk::new(BLOCKS * BLOCK));
        for block in 0..BLOCKS {
            disk.write(block * BLOCK, &[FOREIGN; BLOCK as usize]).expect("inside the disk");
        }
        format(&(disk.clone() as _), &MkfsOptions::default(), BLOCKS).expect("mkfs");
        let data = Data::default();
        let mut player = Player::open(disk.clone(), &data).expect("mount");
        let mut model = Model::default();
        for op in ops {
            model.apply(op).expect("an operation that is possible");
            player.play(op).expect("an operation that is possible");
        }
        player.unmount().expect("unmount");
        Stage { disk, model, data }
    }
}

/// How thoroughly.
#[derive(Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub budget: Budget,
    /// Of so many states, one has the power cut during its recovery too.
    pub again_every: u64,
    /// Changes the log before the states are made: a defect.
    pub defect: fn(&mut Timeline),
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub counts: Counts,
    /// The first failure of each workload that failed.
    pub failures: Vec<String>,
}

/// Looks at all workloads, on two threads.
pub fn run(stage: &Stage, workloads: &[Workload], plan: &Plan) -> Found {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Found::default()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(workload) = workloads.get(next.fetch_add(1, SeqCst)) {
                    let (counts, result) = one(stage, workload, plan);
                    let mut found = found.lock();
                    found.counts.states += counts.states;
                    found.counts.recoveries += counts.recoveries;
                    found.failures.extend(result.err());
                }
            });
        }
    });
    found.into_inner()
}

fn one(stage: &Stage, workload: &Workload, plan: &Plan) -> (Counts, Result<(), String>) {
    let Workload { name, ops, unmount } = workload;
    let named = |e: String| {
        let seed = plan.seed;
        let again = format!(
            "INFLIGHT_SEED={seed} INFLIGHT_WORKLOAD={name} cargo test -p inflight --test power_cut"
        );
        format!("workload {name} {ops:?}: {e}\n    again: {again}")
    };
    let played = Timeline::play(&stage.disk, &stage.model, ops, *unmount, &stage.data);
    let mut timeline = match played {
        Ok(timeline) => timeline,
        Err(e) => return (Counts::default(), Err(named(e))),
    };
    (plan.defect)(&mut timeline);
    let mut judge = Judge { timeline: &timeline, counts: Counts::default() };
    // Each has its own samples, or all of them would miss the same states.
    let own = name.bytes().fold(plan.seed, |sum, byte| sum.wrapping_mul(31) ^ u64::from(byte));
    let rng = ChaCha8Rng::seed_from_u64(own);
    let mut states = States::new(&timeline.events, plan.budget, rng);
    let result = states.each(timeline.base.clone(), timeline.newest, |state| {
        let again = state.sectors.hash().is_multiple_of(plan.again_every);
        judge.state(state, again)
    });
    (judge.counts, result.map_err(named))
}

/// The workloads of one run, or the one that was asked for.
pub fn chosen(seed: u64, of_three: usize) -> Vec<Workload> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut all = workloads::of_one();
    all.extend(workloads::of_two());
    all.extend(workloads::of_three(&mut rng, of_three));
    all.extend(workloads::growth());
    all.extend(workloads::mapped());
    if let Some(names) = asked() {
        all.retain(|workload| names.split(',').any(|name| workload.name == name));
        assert!(!all.is_empty(), "there is no workload {names}");
    }
    all
}

/// The names of the workloads that are to be played, and no others.
pub fn asked() -> Option<String> {
    std::env::var("INFLIGHT_WORKLOAD").ok()
}

/// The seed that was asked for, or the one that everybody uses.
pub fn seed() -> u64 {
    std::env::var("INFLIGHT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// No defect.
pub fn sound(_: &mut Timeline) {}
