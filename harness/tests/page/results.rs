//! Results with one of everything, as a run would have left them.

use inflight_gate::{Hold, Outcome, Phase, Record, ReleasedBy, Times};
use inflight_race::kit::event::{Actor, Event};
use inflight_race::kit::kernel::Kernel;
use inflight_race::kit::stamp::{self, Legal};
use inflight_race::kit::strip::Strip;
use inflight_race::kit::verdict::{Class, Fault, Verdict};
use inflight_race::run::Order;
use inflight_race::run::results::{Entry, Run};
use inflight_race::run::worker::Played;
use inflight_race::target::Target;

/// A variant that failed with a parked request and two stale blocks of eight.
fn failed() -> Played {
    let mut data = stamp::content(7, 2, 0, 4096);
    data[1024..2048].copy_from_slice(&stamp::content(7, 1, 1024, 1024));
    let legal = [Legal::Generation(7, 2)];
    let event = |at_ns, actor, text: &str| Event { at_ns, actor, text: text.to_owned() };
    let hold = Hold {
        rule: 1,
        phase: Phase::Received,
        parked: 60_000,
        released: Some(400_000),
        by: Some(ReleasedBy::Client),
    };
    let record = |seq, op: &str, arrived, done, holds| Record {
        seq,
        unique: seq,
        opcode: 15,
        op: op.to_owned(),
        ino: 2,
        offset: 0,
        len: 4096,
        size: None,
        pid: 1,
        uid: 0,
        path: Some("splice-direct".to_owned()),
        outcome: Some(Outcome::Bytes(4096)),
        times: Times { arrived, done: Some(done), ..Times::default() },
        holds,
    };
    Played {
        faults: vec![Fault { class: Class::Stale, text: "two <blocks> are stale".to_owned() }],
        strips: Strip::of("reader after the write", &data, 0, &legal).into_iter().collect(),
        notes: vec!["a note".to_owned()],
        events: vec![
            event(1_000_000, Actor::Test, "pread read 0+4096"),
            event(1_065_000, Actor::Gate, "1 parked"),
            event(1_200_000, Actor::Racer, "fork"),
            event(1_390_000, Actor::Gate, "release"),
            event(1_500_000, Actor::Test, "returned 4096"),
        ],
        records: vec![
            record(1, "read", 50_000, 450_000, vec![hold]),
            record(2, "write", 250_000, 300_000, Vec::new()),
        ],
        gate_start_ns: 1_000_000,
        seconds: 0.0015,
        control_seconds: 0.001,
        ..Played::default()
    }
}

fn entry(case: &str, name: &str, variant: &str, verdict: Verdict, played: Played) -> Entry {
    Entry {
        case: case.to_owned(),
        name: name.to_owned(),
        claim: "a claim & <its> words".to_owned(),
        variant: variant.to_owned(),
        verdict,
        repro: format!("inflight-race run '{case}:{variant}'"),
        played,
    }
}

/// A run on a target: twelve variants of four cases, one of them with the longest of names.
pub fn run(target: Target, worst: Verdict) -> Run {
    let long = "everything-at-once/preadv/hugetlb/applied/read=pipe-backed,writeback,direct_io";
    let stale = vec![Class::Stale];
    let xfail = Verdict::Xfail { classes: stale, reference: "a kernel bug, 0123456789ab".into() };
    let notrun = Verdict::Notrun { reason: "no huge page ".repeat(12) };
    let mut variants = vec![
        entry("FK1", "fork-touch", "store/pread", Verdict::Pass, failed_to_harm()),
        entry("FK1", "fork-touch", "store/uring", Verdict::Pass, failed_to_harm()),
        entry("IV1", "write-cache", "async/aio", xfail, failed()),
        entry("SP5", "splice-short", "eof-1", worst, failed()),
        entry("ST1", "stress-with-a-long-name-that-must-be-cut", long, notrun, Played::default()),
    ];
    for number in 0..7 {
        let variant = format!("many-{number}");
        variants.push(entry("TR1", "truncate-read", &variant, Verdict::Pass, failed_to_harm()));
    }
    let (release, build) = ("6.18.44".to_owned(), "#1 SMP".to_owned());
    let kernel = Kernel { release, build, machine: "x86_64".to_owned() };
    Run { variants, started: 0, seed: 7, ..Run::new(&Order::empty(target), kernel) }
}

/// The same race without harm.
fn failed_to_harm() -> Played {
    Played { faults: Vec::new(), strips: Vec::new(), ..failed() }
}
