//! One run of the workload on a disk that may fail, and what must hold afterwards.

use crate::reference::Op::{self, *};
use crate::reference::{Alloc, Data, Frozen, Model, Player, Rename, View, content_is_legal};
use inflight::disk::{Call, Disk, FaultyDisk, MemoryDisk, Plan, VolatileDisk};
use inflight::errno::Errno;
use inflight::fsck;
use inflight::image::BLOCK;
use inflight::image::mkfs::{MkfsOptions, format};
use std::sync::Arc;

/// Blocks of the filesystem.
pub const BLOCKS: u64 = 4096;

/// What is there before. "k" is only read: copies of what a failed write left are no use.
const BEGIN: &[Op] = &[
    Create("a"),
    Write("a", 0, 10_000),
    Mkdir("d"),
    Create("d/a"),
    Write("d/a", 0, 4096),
    Create("k"),
    Write("k", 0, 4096),
    Sync,
];

/// What is played: every kind of change, and every way to make it durable.
const WORKLOAD: &[Op] = &[
    Create("b"),
    Write("b", 0, 10_000),
    Fsync("b"),
    Write("a", 100, 4096),
    Fdatasync("a"),
    Rename("b", "d/b", Rename::Over),
    SetXattr("a", "user.x", 5000),
    Tick,
    WriteDirect("a", 8192, 8192),
    Truncate("a", 5000),
    Fallocate("d/a", Alloc::Zero, 100, 9000),
    Sync,
    Open("a"),
    Unlink("a"),
    Write("@", 0, 9000),
    Fsync("@"),
    Fallocate("d/b", Alloc::Punch, 0, 8192),
    Close,
    Link("d/b", "c"),
    CopyRange("k", 0, "c", 4096, 4096),
    Trim,
    Symlink("s"),
    Rename("c", "d/a", Rename::Exchange),
    Sync,
    Mkdir("e"),
];

/// A filesystem to be played on.
pub struct Stage {
    disk: MemoryDisk,
    model: Model,
    data: Data,
}

/// How a run went.
pub struct Outcome {
    /// What is left of the disk when the power goes now.
    left: MemoryDisk,
    /// The reference after each operation.
    models: Vec<Model>,
    /// What operations that failed may have done in part.
    tried: Vec<Model>,
    /// The oldest of the models that may be found.
    floor: usize,
    /// The oldest of them whose contents may be found.
    contents: usize,
    /// The operations that failed, and with what.
    failed: Vec<(Op, Errno)>,
    /// Operations that failed, mount and unmount included.
    pub errors: u32,
    /// What was wrong already while it ran.
    wrong: Option<String>,
}

impl Stage {
    /// With so many blocks.
    pub fn new(blocks: u64) -> Stage {
        let disk = Arc::new(MemoryDisk::new(blocks * BLOCK));
        format(&(disk.clone() as _), &MkfsOptions::default(), blocks).expect("mkfs");
        let data = Data::default();
        let (mut player, mut model) =
            (Player::open(disk.clone(), &data).expect("mount"), Model::default());
        for op in BEGIN {
            model.apply(op).expect("an operation that is possible");
            player.play(op).expect("an operation that is possible");
        }
        player.unmount().expect("unmount");
        Stage { disk: disk.fork(), model, data }
    }

    /// A disk that does not fail yet, with the filesystem on it.
    pub fn disk(&self) -> (Arc<VolatileDisk>, Arc<FaultyDisk>) {
        let below = Arc::new(VolatileDisk::new(&self.disk));
        (below.clone(), Arc::new(FaultyDisk::new(below)))
    }

    pub fn open(&self, disk: Arc<dyn Disk>) -> Result<Player, String> {
        Ok(Player::open(disk, &self.data)?.resume(self.model.serial()))
    }

    /// Calls of a kind that a run without faults makes.
    pub fn calls(&self, call: Option<Call>) -> u64 {
        let (below, disk) = self.disk();
        let fault = inflight::disk::Fault::Stuck;
        disk.plan(Some(Plan { call, after: u64::MAX, forever: false, fault }));
        let outcome = self.play(&below, &disk);
        assert_eq!((outcome.errors, &outcome.wrong), (0, &None), "nothing failed");
        disk.seen()
    }

    /// Mounts, plays the workload and unmounts, while calls fail as planned.
    pub fn run(&self, plan: Plan) -> Outcome {
        let (below, disk) = self.disk();
        disk.plan(Some(plan));
        self.play(&below, &disk)
    }

    pub fn play(&self, below: &VolatileDisk, disk: &Arc<FaultyDisk>) -> Outcome {
        let mut run = Outcome {
            left: self.disk.fork(),
            models: vec![self.model.clone()],
            tried: Vec::new(),
            failed: Vec::new(),
            floor: 0,
            contents: 0,
            errors: 0,
            wrong: None,
        };
        match self.open(disk.clone()) {
            Ok(player) => run.play(player, disk),
            Err(_) => run.errors += 1,
        }
        run.left = below.cut(|_| false).expect("inside the disk");
        run
    }

    /// The image opens again, is whole, and has what was promised.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn judge(&self, run: &Outcome) -> Result<(), String> {
        if let Some(wrong) = &run.wrong {
            return Err(wrong.clone());
        }
        let frozen: Arc<dyn Disk> = Arc::new(Frozen(run.left.fork()));
        let found = fsck::inspect(&frozen).map_err(|e| format!("fsck: {e}"))?.found;
        if found.errors > 0 {
            let list: Vec<String> = found.list.iter().map(ToString::to_string).collect();
            return Err(format!("fsck: {}", list.join("; ")));
        }
        let player = self.open(Arc::new(run.left.fork())).map_err(|e| format!("remount: {e}"))?;
        let view = View::read(player.fs.volume()).map_err(|e| format!("reading all: {e}"))?;
        let mut differences = Vec::new();
        for model in run.models[run.floor..].iter().rev() {
            match run.is(model, &view) {
                Ok(()) => return Ok(()),
                Err(e) => differences.push(e),
            }
        }
        differences.dedup();
        let (failed, wrong) = (&run.failed, differences.join("; "));
        Err(format!("{failed:?}: what was promised is not there: {wrong}"))
    }
}

impl Outcome {
    fn play(&mut self, mut player: Player, disk: &FaultyDisk) {
        let (mut model, mut flush_failed) = (self.models[0].clone(), false);
        for op in WORKLOAD {
            let (mut next, failed) = (model.clone(), disk.failed());
            let (want, got) = (next.apply(op), player.play(op));
            let flush_fails = flush_failed;
            flush_failed |= disk.failed() > failed && got.is_err() && commits(op);
            match got {
                // Not done, or not as far as it was to be; what it did is whole all the same.
                Err(e) if disk.failed() > 0 => {
                    self.errors += 1;
                    self.failed.push((*op, e));
                    self.models.push(next.clone());
                    model = model.at(next.serial());
                    self.tried.push(next);
                    if !matches!(e, Errno::EIO | Errno::ENOSPC) && Err(e) != want {
                        self.wrong = Some(format!("{op:?} answered {e}"));
                    }
                }
                got if got != want => {
                    self.wrong = Some(format!("{op:?} answered {got:?}, not {want:?}"));
                }
                _ => model = next,
            }
            self.models.push(model.clone());
            if got.is_ok() && op.persists() {
                if flush_fails {
                    self.wrong = Some(format!("{op:?} after a commit that failed answered Ok"));
                }
                self.contents = self.models.len() - 1;
                if !matches!(op, Fdatasync(_)) {
                    self.floor = self.models.len() - 1;
                }
            }
        }
        let failed = disk.failed();
        match player.unmount() {
            Ok(()) => {
                model.forget_open();
                self.models.push(model);
                (self.floor, self.contents) = (self.models.len() - 1, self.models.len() - 1);
            }
            Err(_) => self.errors += 1,
        }
        if self.errors > 0 && failed == 0 && disk.failed() == 0 {
            self.wrong = Some("something failed although the disk did not".into());
        }
    }

    fn is(&self, model: &Model, view: &View) -> Result<(), String> {
        let mut model = model.clone();
        model.forget_open();
        // A write that failed has written what it has.
        let promised = &self.models[self.contents..];
        let tried = self.tried.iter().flat_map(|tried| [tried, &promised[0]]);
        let may_be: Vec<Model> = tried.chain(promised).cloned().collect();
        for (ino, real) in model.matches(view)? {
            content_is_legal(&view.nodes[&real].content, ino, &may_be)
                .map_err(|e| format!("inode {ino} of the reference: {e}"))?;
        }
        Ok(())
    }
}

/// What makes a commit, which is the last one when it fails.
fn commits(op: &Op) -> bool {
    op.persists() || *op == Tick
}
