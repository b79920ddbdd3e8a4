//! A workload that was played: what the filesystem was after each operation, what was promised
//! when, and the log of the disk below.

use crate::platter::Sectors;
use crate::reference::model::{Ino, Node};
use crate::reference::{Data, Model, Op, Player};
use inflight::disk::{Event, MemoryDisk, Recorder};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a power cut may not undo.
#[derive(Clone, Debug, Default)]
pub struct Promise {
    /// Whole operations up to this one.
    pub floor: usize,
    /// The contents of all files up to this operation.
    pub contents: usize,
    /// The contents of one file up to this operation.
    pub content: BTreeMap<Ino, usize>,
}

impl Promise {
    /// The contents of `ino` are those after this operation, or newer.
    pub fn content_floor(&self, ino: Ino) -> usize {
        self.content.get(&ino).copied().unwrap_or(0).max(self.contents)
    }
}

/// What happened.
pub struct Timeline {
    /// The disk when it began.
    pub base: Sectors,
    pub events: Vec<Event>,
    /// The reference after each operation; the first one is the beginning.
    pub models: Vec<Model>,
    /// How many events there were before each operation, and after the last one.
    pub positions: Vec<usize>,
    /// What was promised by each operation, and from which event on it holds.
    promises: Vec<(usize, Promise)>,
    /// Events before the last operation that changed something.
    pub newest: usize,
}

impl Timeline {
    /// Plays `ops` on a copy of `base`, where `model` was left; the last thing is an unmount when
    /// `unmount` says so.
    ///
    /// # Errors
    /// When the filesystem and the reference answer differently.
    pub fn play(
        base: &Arc<MemoryDisk>,
        model: &Model,
        ops: &[Op],
        unmount: bool,
        data: &Data,
    ) -> Result<Timeline, String> {
        let disk = Arc::new(Recorder::new(Arc::new(base.fork())));
        let mut player = Player::open(disk.clone(), data)?.resume(model.serial());
        // As with the option discard, in the half of the workloads.
        if ops.len().is_multiple_of(2) {
            player.discard_freed();
        }
        let mut timeline = Timeline {
            base: Sectors::new(base.clone()),
            events: Vec::new(),
            models: vec![model.clone()],
            positions: vec![disk.position()],
            promises: vec![(0, Promise::default())],
            newest: disk.position(),
        };
        for op in ops {
            let before = disk.position();
            let mut next = timeline.last().clone();
            let (want, got) = (next.apply(op), player.play(op));
            if want != got {
                return Err(format!("{op:?} answered {got:?}, not {want:?}"));
            }
            timeline.models.push(next);
            timeline.positions.push(disk.position());
            if want.is_ok() {
                timeline.promise(op, disk.position());
            }
            if !op.persists() && *op != Op::Tick {
                timeline.newest = before;
            }
        }
        if unmount {
            timeline.newest = disk.position();
            player.unmount().map_err(|e| format!("unmount: {e}"))?;
            let mut closed = timeline.last().clone();
            closed.forget_open();
            timeline.models.push(closed);
            timeline.positions.push(disk.position());
            timeline.promise(&Op::Sync, disk.position());
        }
        timeline.events = disk.take_log();
        Ok(timeline)
    }

    fn last(&self) -> &Model {
        self.models.last().expect("there is always a first one")
    }

    /// Operation number `models.len() - 1` returned.
    fn promise(&mut self, op: &Op, position: usize) {
        let now = self.models.len() - 1;
        let mut promise = self.promises.last().expect("there is always a first one").1.clone();
        match *op {
            Op::Sync => (promise.floor, promise.contents) = (now, now),
            Op::Fsync(path) | Op::Fdatasync(path) => {
                let ino = self.last().find(path).expect("it was fsynced");
                if self.last().nodes[&ino].is_dir() {
                    // Here fsync(2) of a directory is syncfs(2).
                    (promise.floor, promise.contents) = (now, now);
                } else {
                    let touched = self.touched(ino, matches!(op, Op::Fdatasync(_)));
                    promise.floor = promise.floor.max(touched);
                    promise.content.insert(ino, now);
                }
            }
            _ => return,
        }
        self.promises.push((position, promise));
    }

    /// The last operation that changed `ino`; with `data_only` in what it takes to find its bytes.
    fn touched(&self, ino: Ino, data_only: bool) -> usize {
        let node = |at: usize| self.models[at].nodes.get(&ino);
        let differs = |at: &usize| match (node(*at), node(*at - 1)) {
            (Some(new), Some(old)) if data_only => {
                let size = |node: &Node| node.content().map(|content| content.len());
                size(new) != size(old) || new.blocks() != old.blocks()
            }
            (new, old) => new != old,
        };
        (1..self.models.len()).rev().find(differs).unwrap_or(0)
    }

    /// What had been promised when `cut` events had been issued.
    pub fn promised(&self, cut: usize) -> &Promise {
        let held = self.promises.iter().rev().find(|(position, _)| *position <= cut);
        &held.expect("the first one holds from the beginning").1
    }

    /// The newest operation that had begun when `cut` events had been issued.
    pub fn begun(&self, cut: usize) -> usize {
        let begun = self.positions.iter().rposition(|position| *position <= cut);
        begun.map_or(0, |at| at + 1).min(self.models.len() - 1)
    }
}
