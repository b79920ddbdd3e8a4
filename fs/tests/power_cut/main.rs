//! Power cuts at every write, in the manner of CrashMonkey and ACE, without a mount.
//!
//! Workloads are played on a disk that records. From the log follows what the disk may hold when
//! the power goes; each of these states is checked, mounted and compared with what had been
//! promised, and during some of these mounts the power is cut again. `INFLIGHT_SEED` chooses other
//! samples, `INFLIGHT_WORKLOAD` plays one workload only.

mod defects;
mod judge;
mod platter;
#[path = "../reference/mod.rs"]
mod reference;
mod run;
mod states;
mod timeline;
mod together;
mod workloads;

use run::{Plan, Stage, asked, chosen, run, seed, sound};
use states::Budget;
use std::time::Instant;

const BUDGET: Budget = Budget { prefixes: 40, torn: 6, without: 10, only: 10, random: 5 };

#[test]
fn a_power_cut_at_any_write_keeps_what_was_promised() {
    let (seed, begin) = (seed(), Instant::now());
    defects::choose();
    let stage = Stage::new(workloads::BEGIN);
    let workloads = chosen(seed, 100);
    let again_every = if asked().is_some() { 1 } else { 100 };
    let plan = Plan { seed, budget: BUDGET, again_every, defect: sound };
    let found = run(&stage, &workloads, &plan);
    let seconds = begin.elapsed().as_secs_f64();
    let states = found.counts.states + found.counts.recoveries;
    println!(
        "seed {seed}: {} workloads, {} states, {} more after a second cut, {seconds:.0} s, {:.0}/s",
        workloads.len(),
        found.counts.states,
        found.counts.recoveries,
        states as f64 / seconds
    );
    let failures = found.failures.len();
    for failure in found.failures.iter().take(12) {
        println!("{failure}");
    }
    assert_eq!(failures, 0, "workloads after which a promise was broken");
    if workloads.len() > 100 {
        assert!(states >= 100_000, "only {states} states");
    }
}
