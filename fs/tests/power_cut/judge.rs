//! What is left after a power cut, against what was promised.

use crate::platter::Platter;
use crate::reference::{View, content_is_legal};
use crate::states::{Budget, State, States};
use crate::timeline::{Promise, Timeline};
use inflight::disk::{Disk, Recorder};
use inflight::fsck;
use inflight::image::open;
use inflight::volume::Volume;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// What a cut during the recovery is tried with.
const RECOVERY: Budget = Budget { prefixes: 8, torn: 3, without: 2, only: 3, random: 1 };

/// Counts of one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub states: u64,
    pub recoveries: u64,
}

/// Looks at what is left of one workload.
pub struct Judge<'a> {
    pub timeline: &'a Timeline,
    pub counts: Counts,
}

impl Judge<'_> {
    /// Checks, mounts and compares; with `again`, cuts the power during that mount too.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn state(&mut self, state: &State, again: bool) -> Result<(), String> {
        self.counts.states += 1;
        let disk = Arc::new(Platter::new(state.sectors.clone()));
        self.mount(&disk, state, again).map_err(|e| {
            let (cut, all) = (state.cut, self.timeline.events.len());
            format!("cut after {cut} of {all} events, {:?}: {e}", state.how)
        })
    }

    fn mount(&mut self, disk: &Arc<Platter>, state: &State, again: bool) -> Result<(), String> {
        check(disk)?;
        disk.make_writable();
        if !again {
            let volume = mounted(disk.clone())?;
            return self.compare(&volume, state);
        }
        let before = disk.sectors();
        let recorder = Arc::new(Recorder::new(disk.clone()));
        let volume = mounted(recorder.clone())?;
        self.compare(&volume, state)?;
        volume.close().map_err(|e| format!("unmount after the recovery: {e}"))?;
        drop(volume);
        check(&Arc::new(Platter::new(disk.sectors())))?;
        let log = recorder.take_log();
        let rng = ChaCha8Rng::seed_from_u64(before.hash());
        States::new(&log, RECOVERY, rng).each(before, 0, |second| {
            self.counts.recoveries += 1;
            let disk = Arc::new(Platter::new(second.sectors.clone()));
            self.mount(&disk, state, false).map_err(|e| {
                let (cut, all) = (second.cut, log.len());
                format!("recovered, cut again after {cut} of {all} events, {:?}: {e}", second.how)
            })
        })
    }

    /// Some state between what was promised and what had begun is there, whole.
    fn compare(&self, volume: &Volume, state: &State) -> Result<(), String> {
        let view = View::read(volume).map_err(|e| format!("reading everything: {e}"))?;
        let promise = self.timeline.promised(state.latest);
        // What was promised and needed no write is the same as what is there.
        let floor = promise.floor;
        let newest = self.timeline.begun(state.cut).max(floor);
        let mut differences = Vec::new();
        for at in (floor..=newest).rev() {
            match self.at(at, newest, &view, promise) {
                Ok(()) => return Ok(()),
                Err(e) => differences.push(format!("not the state after operation {at}: {e}")),
            }
        }
        Err(differences.join("; "))
    }

    fn at(&self, at: usize, newest: usize, view: &View, promise: &Promise) -> Result<(), String> {
        let mut model = self.timeline.models[at].clone();
        model.forget_open();
        let numbers = model.matches(view)?;
        for (ino, real) in numbers {
            let oldest = promise.content_floor(ino);
            let models = &self.timeline.models[oldest..=newest.max(oldest)];
            let content = &view.nodes[&real].content;
            content_is_legal(content, ino, models)
                .map_err(|e| format!("inode {ino} of the reference: {e}"))?;
        }
        Ok(())
    }
}

/// fsck without repair: what a crash leaves are notes.
fn check(disk: &Arc<Platter>) -> Result<(), String> {
    let disk: Arc<dyn Disk> = disk.clone();
    let report = fsck::inspect(&disk).map_err(|e| format!("fsck: {e}"))?;
    if report.found.errors == 0 {
        return Ok(());
    }
    let list: Vec<String> = report.found.list.iter().map(|finding| finding.to_string()).collect();
    Err(format!("fsck: {}", list.join("; ")))
}

fn mounted(disk: Arc<dyn Disk>) -> Result<Volume, String> {
    let store = open::open_on(disk, None).map_err(|e| format!("mount: {e}"))?;
    Volume::open(store).map_err(|e| format!("mount: {e}"))
}
