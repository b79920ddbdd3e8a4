//! Runs as a trace that ui.perfetto.dev opens. A variant is a process; its threads are the window in which something was
//! parked, the test with its I/O in flight, the racer, the gate, and as many of the server's as its requests need. A run's
//! times begin with its first event, so that runs on several kernels lie above each other.

use inflight_gate::perfetto;
use inflight_gate::trace_events::{Slice, TraceEvents};
use serde_json::{Value, json};

use super::subject::run_name;
use super::timeline;
use crate::kit::event::Actor;
use crate::run::results::{Entry, Run};
use crate::run::worker::Played;

/// Threads of a variant; the server's come behind them.
const WINDOW: u32 = 1;
const LANES: [(Actor, u32, &str); 3] =
    [(Actor::Test, 2, "test"), (Actor::Racer, 3, "racer"), (Actor::Gate, 4, "gate")];
const SERVER: u32 = 5;

/// Makes the trace.
pub fn trace(runs: &[Run]) -> Value {
    let mut events = TraceEvents::default();
    let mut pid = 0;
    for run in runs {
        let first = run.variants.iter().filter_map(|entry| first_ns(&entry.played)).min();
        let zero = first.unwrap_or(0);
        for entry in &run.variants {
            pid += 1;
            variant(&mut events, pid, run, entry, zero);
        }
    }
    let about = |run: &Run| {
        json!({
            "target": run.target.name(), "options": run.options, "seed": run.seed,
            "kernel": run.kernel.release, "started": run.started,
        })
    };
    events.finish(json!({"runs": runs.iter().map(about).collect::<Vec<_>>()}))
}

/// CLOCK_MONOTONIC at which a variant's first event or request came; `None` when nothing happened.
fn first_ns(played: &Played) -> Option<u64> {
    let requests = played.records.iter().map(|record| record.times.arrived + played.gate_start_ns);
    played.events.iter().map(|event| event.at_ns).chain(requests).min()
}

/// The same of the last.
fn last_ns(played: &Played) -> u64 {
    let requests = played.records.iter().map(|record| {
        let held = record.holds.iter().filter_map(|hold| hold.released);
        let last = held.chain(record.times.done).max().unwrap_or(record.times.arrived);
        last + played.gate_start_ns
    });
    played.events.iter().map(|event| event.at_ns).chain(requests).max().unwrap_or(0)
}

fn variant(events: &mut TraceEvents, pid: u32, run: &Run, entry: &Entry, zero: u64) {
    let (played, verdict) = (&entry.played, &entry.verdict);
    let (case, variant, word) = (&entry.case, &entry.variant, verdict.word());
    let kernel = &run.kernel.release;
    events.process(pid, &format!("{word} {case} {variant}, {} on {kernel}", run_name(run)));
    let slice = |name: &str, category, from: u64, to: u64, args| Slice {
        name: name.to_owned(),
        category,
        from_ns: from.saturating_sub(zero),
        to_ns: to.saturating_sub(zero),
        args,
        inside: Vec::new(),
    };
    events.thread(pid, WINDOW, "window");
    let about = json!({"claim": entry.claim, "verdict": word, "detail": verdict.detail(), "repro": entry.repro});
    for (from, to) in timeline::windows(played) {
        events.slice(pid, WINDOW, &slice("window", "window", from, to, about.clone()));
    }
    for (actor, tid, name) in LANES {
        events.thread(pid, tid, name);
        for event in played.events.iter().filter(|event| event.actor == actor) {
            events.moment(pid, tid, name, &event.text, event.at_ns.saturating_sub(zero));
        }
    }
    for (from, to, what) in timeline::in_flight(played) {
        events.slice(pid, LANES[0].1, &slice(what, "test", from, to, json!({})));
    }
    let start = played.gate_start_ns;
    let last = last_ns(played).saturating_sub(start);
    // A gate may have started before the first event: its zero lies before that of the trace.
    let place = |slice: Slice| match start.checked_sub(zero) {
        Some(later) => slice.later(later),
        None => slice.earlier(zero - start),
    };
    let requests = played.records.iter().map(|record| place(perfetto::request(record, last)));
    events.lanes(pid, SERVER, "server", requests.collect());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::verdict::Verdict;
    use crate::report::tests::{event, fail, record, run};
    use crate::target::Target;

    #[test]
    fn a_variant_is_a_process_with_its_window_test_racer_gate_and_server() {
        let mut run = run(Target::Inflight, &[Verdict::Pass, fail()]);
        for entry in &mut run.variants {
            let test = |at_ns, text: &str| crate::kit::event::Event {
                actor: Actor::Test,
                ..event(at_ns, text)
            };
            entry.played.gate_start_ns = 10_000;
            entry.played.records = vec![record(1, 2_000, 8_000), record(2, 3_000, 4_000)];
            entry.played.events = vec![
                test(11_000, "read 4096"),
                event(15_000, "fork"),
                test(19_000, "returned 4096"),
            ];
        }
        let trace = trace(&[run]);
        let all = trace["traceEvents"].as_array().unwrap();
        let of = |ph: &str, pid: u64| -> Vec<&Value> {
            all.iter().filter(|event| event["ph"] == ph && event["pid"] == pid).collect()
        };
        let names: Vec<_> = of("M", 2)
            .iter()
            .filter(|event| event["name"] == "thread_name")
            .map(|event| event["args"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["window", "test", "racer", "gate", "server", "server"]);
        let process = of("M", 2)[0]["args"]["name"].as_str().unwrap();
        assert_eq!(process, "FAIL FK1 vFAIL, inflight on 6.18.44");
        let fork = of("i", 1).into_iter().find(|event| event["name"] == "fork").unwrap();
        assert_eq!((&fork["ts"], &fork["tid"]), (&json!(4.0), &json!(3)));
        let slices: Vec<_> = of("X", 1)
            .iter()
            .map(|event| {
                (
                    event["name"].as_str().unwrap(),
                    event["ts"].as_f64().unwrap(),
                    event["dur"].as_f64().unwrap(),
                )
            })
            .collect();
        // The first event is at 11 us, the gate's zero 1 us before it.
        assert!(slices.contains(&("window", 1.0, 6.0)), "{slices:?}");
        assert!(slices.contains(&("read 4096", 0.0, 8.0)), "{slices:?}");
        assert_eq!(
            slices.iter().filter(|slice| **slice == ("read", 1.0, 6.0)).count(),
            1,
            "{slices:?}"
        );
    }
}
