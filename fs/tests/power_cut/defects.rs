//! Defects on purpose: a checker that does not find them is none.

use crate::run::{Plan, Stage, run, seed};
use crate::timeline::Timeline;
use crate::workloads::{self, Workload};
use inflight::disk::Event;

/// An event that does nothing, in the place of another one.
fn nothing() -> Event {
    Event::Write { offset: 0, data: [].into() }
}

/// The flushes of the last operation.
fn flushes(timeline: &Timeline) -> Vec<usize> {
    let events = timeline.events.iter().enumerate().skip(timeline.newest);
    events.filter(|(_, event)| **event == Event::Sync).map(|(at, _)| at).collect()
}

/// The flush that a commit ends with does nothing.
fn no_last_flush(timeline: &mut Timeline) {
    if let Some(at) = flushes(timeline).last() {
        timeline.events[*at] = nothing();
    }
}

/// The flush before the commit slot is written does nothing.
fn no_first_flush(timeline: &mut Timeline) {
    if let Some(at) = flushes(timeline).first() {
        timeline.events[*at] = nothing();
    }
}

/// The flush that should come before the slot comes after everything.
fn flush_after_commit(timeline: &mut Timeline) {
    no_first_flush(timeline);
    timeline.events.push(Event::Sync);
}

/// Both copies of the superblock are written before either is flushed.
fn both_copies_at_once(timeline: &mut Timeline) {
    let copy =
        |event: &Event| matches!(event, Event::Write { data, .. } if data.starts_with(b"INFLIGHT"));
    for at in 1..timeline.events.len().saturating_sub(1) {
        let events = &mut timeline.events;
        if events[at] == Event::Sync && copy(&events[at - 1]) && copy(&events[at + 1]) {
            events[at] = nothing();
        }
    }
}

#[test]
fn a_disk_or_a_commit_that_loses_or_moves_a_flush_is_found() {
    let stage = Stage::new(workloads::BEGIN);
    let of_one = workloads::of_one();
    let (unmounts, rest): (Vec<Workload>, Vec<Workload>) =
        of_one.into_iter().partition(|workload| workload.unmount);
    let promised: Vec<Workload> =
        rest.into_iter().filter(|w| w.ops.iter().any(|op| op.persists())).step_by(3).collect();
    type Defect<'a> = (&'static str, fn(&mut Timeline), &'a [Workload]);
    let defects: [Defect<'_>; 4] = [
        ("no last flush", no_last_flush, &promised),
        ("no first flush", no_first_flush, &promised),
        ("flush after the commit", flush_after_commit, &promised),
        ("both superblock copies at once", both_copies_at_once, &unmounts[..5]),
    ];
    for (name, defect, workloads) in defects {
        let plan = Plan { seed: seed(), budget: crate::BUDGET, again_every: u64::MAX, defect };
        let found = run(&stage, workloads, &plan);
        println!(
            "{name}: found by {} of {} workloads, in {} states",
            found.failures.len(),
            workloads.len(),
            found.counts.states
        );
        assert!(!found.failures.is_empty(), "{name} was not found");
    }
}

/// This process is to have the defect that the environment names.
#[cfg(not(feature = "mutants"))]
pub fn choose() {}

/// This process is to have the defect that the environment names.
#[cfg(feature = "mutants")]
pub fn choose() {
    use inflight::mutant::{self, Mutant};
    let Ok(name) = std::env::var("INFLIGHT_MUTANT") else { return };
    let found = Mutant::ALL.iter().find(|mutant| mutant.name() == name);
    mutant::choose(*found.expect("the name of a mutant"));
}

#[cfg(feature = "mutants")]
#[test]
fn defects_of_the_filesystem_are_found() {
    use crate::reference::Alloc;
    use crate::reference::Op::{self, *};
    use crate::workloads::number;
    use inflight::mutant::Mutant;
    let pair = |first: Op, second: Op| format!("2/{}/{}", number(first), number(second));
    let reserved = Fallocate("a", Alloc::Grow, 8000, 20_000);
    let proofs = [
        (Mutant::ReuseBeforeCommit, pair(Unlink("c"), Write("d/a", 4096, 3000))),
        (Mutant::SkipCleanFlush, format!("1/{}/2", number(Write("a", 0, 4096)))),
        (Mutant::ForgetOrphan, pair(Open("a"), Unlink("a"))),
        (Mutant::LateChecksums, "1/0/0,1/0/1".into()),
        (Mutant::ForgetPiece, "growth/0,growth/1,growth/2".into()),
        (
            Mutant::SkipSuperblockRepair,
            (0..8).map(|i| format!("1/{i}/unmount")).collect::<Vec<_>>().join(","),
        ),
        (Mutant::SkipEdgeZero, pair(reserved, Write("a", 10_000, 5000))),
        (Mutant::SkipTailZero, pair(Truncate("a", 5000), Truncate("a", 20_000))),
    ];
    for mutant in Mutant::CRASHES {
        assert!(proofs.iter().any(|(proved, _)| proved == mutant), "{}", mutant.name());
    }
    for (mutant, workloads) in proofs {
        // A process can have one defect, for as long as it lives.
        let output = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "a_power_cut_at_any_write_keeps_what_was_promised"])
            .env("INFLIGHT_MUTANT", mutant.name())
            .env("INFLIGHT_WORKLOAD", &workloads)
            .output()
            .expect("a process");
        let said = String::from_utf8_lossy(&output.stdout);
        let failure = said.lines().find(|line| line.starts_with("workload "));
        let failure = failure.unwrap_or_else(|| panic!("{} was not found:\n{said}", mutant.name()));
        assert!(!output.status.success());
        println!("{}: {failure}", mutant.name());
    }
}
