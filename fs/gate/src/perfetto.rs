//! The log as a trace that ui.perfetto.dev opens.
//!
//! Every process that asked is a process of the trace. Its requests lie on lanes, because several may be in flight at a time
//! and slices of one lane must nest: the kernel's slice from sending to the end, where it was recorded; in it the server's;
//! in that the phases; and in a phase the time that the gate held the request.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::trace_events::{Slice, TraceEvents};
use super::tracefs::{Event, What};
use super::{Outcome, Phase, Record, errno};
use inflight_fuse::abi::Opcode;

/// A request as the kernel saw it.
#[derive(Clone, Debug)]
struct Sent {
    connection: u32,
    unique: u64,
    opcode: u32,
    tid: u32,
    comm: String,
    from_ns: u64,
    end: Option<(u64, i32)>,
}

/// Makes the trace. Times of `records` count from `start_ns` on CLOCK_MONOTONIC; so do those of the trace.
pub fn trace(records: &[Record], kernel: &[Event], start_ns: u64) -> Value {
    let last = last_ns(records, kernel, start_ns);
    let mut sent = sent(kernel, start_ns);
    let connection = ours(records, &sent);
    sent.retain(|request| Some(request.connection) == connection);
    let mut by_unique: HashMap<u64, Vec<Sent>> = HashMap::new();
    for request in sent {
        by_unique.entry(request.unique).or_default().push(request);
    }
    let mut names: BTreeMap<u32, String> = BTreeMap::new();
    let mut tracks: BTreeMap<u32, Vec<Slice>> = BTreeMap::new();
    for record in records {
        let slice = request(record, last);
        let sent = by_unique.get_mut(&record.unique);
        let twin = sent.and_then(|sent| {
            let at = sent
                .iter()
                .rposition(|s| s.opcode == record.opcode && s.from_ns <= record.times.arrived)?;
            Some(sent.remove(at))
        });
        let slice = match twin {
            Some(twin) => {
                // What the kernel asks for itself, it asks in whose thread it happens to be.
                if record.pid != 0 {
                    names.entry(record.pid).or_insert_with(|| twin.comm.clone());
                }
                of_kernel(&twin, Some(slice), last)
            }
            None => slice,
        };
        tracks.entry(record.pid).or_default().push(slice);
    }
    // What the log does not have: FORGET, FLUSH that is refused once, and what came before it began.
    for request in by_unique.into_values().flatten() {
        names.entry(request.tid).or_insert_with(|| request.comm.clone());
        tracks.entry(request.tid).or_default().push(of_kernel(&request, None, last));
    }
    let mut events = TraceEvents::default();
    for (pid, slices) in tracks {
        events.process(pid, &names.remove(&pid).unwrap_or_else(|| name_of(pid)));
        events.lanes(pid, 1, "requests", slices);
    }
    events.finish(json!({"clock": "CLOCK_MONOTONIC", "start_ns": start_ns}))
}

fn last_ns(records: &[Record], kernel: &[Event], start_ns: u64) -> u64 {
    let of = |record: &Record| {
        let holds = record.holds.iter().map(|hold| hold.released.unwrap_or(hold.parked));
        let reached = record.times.phases.iter().flatten().copied();
        let times = holds.chain(reached).chain(record.times.done);
        times.max().unwrap_or(record.times.arrived)
    };
    let events = kernel.iter().map(|event| event.at_ns.saturating_sub(start_ns));
    records.iter().map(of).chain(events).max().unwrap_or(0)
}

/// Pairs what was sent with what ended.
fn sent(kernel: &[Event], start_ns: u64) -> Vec<Sent> {
    let mut all: Vec<Sent> = Vec::new();
    let mut open: HashMap<(u32, u64), usize> = HashMap::new();
    for event in kernel {
        let key = (event.connection, event.unique);
        let Some(at_ns) = event.at_ns.checked_sub(start_ns) else { continue };
        match event.what {
            What::Send { opcode } => {
                open.insert(key, all.len());
                all.push(Sent {
                    connection: event.connection,
                    unique: event.unique,
                    opcode,
                    tid: event.tid,
                    comm: event.comm.clone(),
                    from_ns: at_ns,
                    end: None,
                });
            }
            What::End { error } => {
                if let Some(at) = open.remove(&key) {
                    all[at].end = Some((at_ns, error));
                }
            }
        }
    }
    all
}

/// The connection whose requests are in the log: numbers alone are equal on all of them.
fn ours(records: &[Record], sent: &[Sent]) -> Option<u32> {
    let known: HashMap<u64, u32> = records.iter().map(|r| (r.unique, r.opcode)).collect();
    let mut hits: BTreeMap<u32, usize> = BTreeMap::new();
    for request in sent.iter().filter(|s| known.get(&s.unique) == Some(&s.opcode)) {
        *hits.entry(request.connection).or_default() += 1;
    }
    hits.into_iter().max_by_key(|(_, count)| *count).map(|(connection, _)| connection)
}

fn of_kernel(sent: &Sent, server: Option<Slice>, last: u64) -> Slice {
    let inner = server.as_ref().map_or(0, |server| server.to_ns);
    let to_ns = sent.end.map_or(last, |(at, _)| at).max(inner).max(sent.from_ns);
    let (unique, tid) = (sent.unique, sent.tid);
    let error = sent.end.map(|(_, error)| error);
    Slice {
        name: Opcode(sent.opcode).name().unwrap_or("?").to_owned(),
        category: "kernel",
        from_ns: sent.from_ns,
        to_ns,
        args: json!({"unique": unique, "tid": tid, "comm": sent.comm, "error": error}),
        inside: server.into_iter().collect(),
    }
}

/// A request as the server saw it, with its phases and the times at which the gate held it. One that has no end yet ends at
/// `last`, in ns of the gate.
pub fn request(record: &Record, last: u64) -> Slice {
    let times = &record.times;
    let to_ns = times.done.unwrap_or(last).max(times.arrived);
    let outcome = match record.outcome {
        None => json!(null),
        Some(Outcome::Bytes(bytes)) => json!(bytes),
        Some(Outcome::Errno(number)) => json!(errno::name(number)),
        Some(Outcome::Dropped) => json!("dropped"),
        Some(Outcome::Withdrawn) => json!("withdrawn"),
    };
    let reached = times.reached();
    let ends = reached.iter().skip(1).map(|(_, at)| *at).chain([to_ns]);
    let phases = reached.iter().zip(ends);
    Slice {
        name: record.op.clone(),
        category: "server",
        from_ns: times.arrived,
        to_ns,
        args: json!({
            "id": record.seq, "unique": record.unique, "ino": record.ino, "offset": record.offset, "len": record.len,
            "pid": record.pid, "uid": record.uid, "path": record.path, "result": outcome,
        }),
        inside: phases.map(|((phase, from), to)| of_phase(record, *phase, *from, to)).collect(),
    }
}

fn of_phase(record: &Record, phase: Phase, from_ns: u64, to_ns: u64) -> Slice {
    let holds = record.holds.iter().filter(|hold| hold.phase == phase);
    let inside = holds.map(|hold| Slice {
        name: format!("parked by rule {}", hold.rule),
        category: "gate",
        from_ns: hold.parked,
        to_ns: hold.released.unwrap_or(to_ns),
        args: json!({"by": hold.by}),
        inside: Vec::new(),
    });
    let name = phase.name().to_owned();
    Slice { name, category: "phase", from_ns, to_ns, args: json!({}), inside: inside.collect() }
}

fn name_of(pid: u32) -> String {
    match pid {
        0 => "kernel (readahead, write-back)".to_owned(),
        _ => std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .map_or_else(|_| format!("process {pid}"), |comm| comm.trim_end().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace_events::tests::assert_format;
    use crate::{Hold, ReleasedBy, Times};

    fn record(seq: u64, arrived: u64, done: Option<u64>) -> Record {
        let phases = [Some(arrived), Some(arrived + 10), None, None];
        Record {
            seq,
            unique: seq * 2,
            opcode: 15,
            op: "read".into(),
            ino: 2,
            offset: 0,
            len: 4096,
            size: None,
            pid: 77,
            uid: 0,
            path: None,
            outcome: done.map(|_| Outcome::Bytes(4096)),
            times: Times { arrived, phases, done, ..Times::default() },
            holds: Vec::new(),
        }
    }

    #[test]
    fn requests_nest_in_what_the_kernel_saw_and_overlapping_ones_have_lanes() {
        let mut first = record(1, 1000, Some(9000));
        let (phase, by) = (Phase::Prepared, Some(ReleasedBy::Client));
        first.holds.push(Hold { rule: 3, phase, parked: 1020, released: Some(8000), by });
        let records = [first, record(2, 2000, Some(3000)), record(3, 10_000, None)];
        let event = |at_ns: u64, connection, unique, what| Event {
            at_ns: at_ns + 500,
            tid: 77,
            comm: "dd".into(),
            connection,
            unique,
            what,
        };
        let send = || What::Send { opcode: 15 };
        let kernel = [
            event(900, 4, 2, send()),
            event(950, 5, 2, send()),
            event(1900, 4, 4, send()),
            event(3100, 4, 4, What::End { error: 0 }),
            event(9200, 4, 2, What::End { error: 0 }),
            event(9300, 4, 10, What::Send { opcode: 25 }),
        ];
        let trace = trace(&records, &kernel, 500);
        let events = trace["traceEvents"].as_array().unwrap();
        assert_format(&trace);
        let named = |name: &str, category: &str| -> Vec<&Value> {
            events.iter().filter(|e| e["name"] == name && e["cat"] == category).collect()
        };
        let kernel = named("read", "kernel");
        assert_eq!((kernel.len(), kernel[0]["ts"].as_f64()), (2, Some(0.9)));
        assert_eq!(kernel[0]["dur"].as_f64(), Some(8.3));
        assert_ne!(kernel[0]["tid"], kernel[1]["tid"], "they overlap");
        assert_eq!(named("read", "server").len(), 3);
        assert_eq!(named("flush", "kernel").len(), 1);
        let held = named("parked by rule 3", "gate");
        assert_eq!((held[0]["ts"].as_f64(), held[0]["dur"].as_f64()), (Some(1.02), Some(6.98)));
        assert_eq!(events[0]["args"]["name"], "dd");
    }
    #[test]
    fn what_the_kernel_asks_for_itself_is_not_the_process_in_whose_thread_it_did() {
        let records = [Record { pid: 0, ..record(1, 1000, Some(2000)) }];
        let what = What::Send { opcode: 15 };
        let comm = "dd".to_owned();
        let kernel = [Event { at_ns: 900, tid: 77, comm, connection: 4, unique: 2, what }];
        let trace = trace(&records, &kernel, 0);
        assert_format(&trace);
        assert_eq!(trace["traceEvents"][0]["args"]["name"], "kernel (readahead, write-back)");
    }
}
