//! A trace in the JSON format of Chrome (Trace Event Format), which ui.perfetto.dev opens: processes, threads, slices that
//! nest, moments.

use serde_json::{Value, json};

/// A span of a thread, and those inside it. Times are ns of one clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// What is written on it.
    pub name: String,
    /// Its kind, by which viewers filter.
    pub category: &'static str,
    /// When it began.
    pub from_ns: u64,
    /// When it ended.
    pub to_ns: u64,
    /// What is shown when it is chosen: an object.
    pub args: Value,
    /// Slices inside it, which are cut to it.
    pub inside: Vec<Slice>,
}

impl Slice {
    /// The same, so many ns later.
    #[must_use]
    pub fn later(self, by_ns: u64) -> Slice {
        self.moved(&|at| at.saturating_add(by_ns))
    }

    /// The same, so many ns earlier, and not before 0.
    #[must_use]
    pub fn earlier(self, by_ns: u64) -> Slice {
        self.moved(&|at| at.saturating_sub(by_ns))
    }

    fn moved(mut self, to: &dyn Fn(u64) -> u64) -> Slice {
        (self.from_ns, self.to_ns) = (to(self.from_ns), to(self.to_ns));
        self.inside = self.inside.into_iter().map(|slice| slice.moved(to)).collect();
        self
    }
}

/// The events of a trace, as they are written down.
#[derive(Clone, Debug, Default)]
pub struct TraceEvents {
    events: Vec<Value>,
}

impl TraceEvents {
    /// Names a process; viewers show those of lower numbers first.
    pub fn process(&mut self, pid: u32, name: &str) {
        self.events
            .push(json!({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}));
        let rank = json!({"sort_index": pid});
        self.events
            .push(json!({"ph": "M", "name": "process_sort_index", "pid": pid, "args": rank}));
    }

    /// Names a thread of a process.
    pub fn thread(&mut self, pid: u32, tid: u32, name: &str) {
        for (key, args) in [
            ("thread_name", json!({"name": name})),
            ("thread_sort_index", json!({"sort_index": tid})),
        ] {
            self.events.push(json!({"ph": "M", "name": key, "pid": pid, "tid": tid, "args": args}));
        }
    }

    /// Something that happened at a moment.
    pub fn moment(&mut self, pid: u32, tid: u32, category: &str, name: &str, at_ns: u64) {
        self.events.push(json!({
            "ph": "i", "s": "t", "name": name, "cat": category, "pid": pid, "tid": tid, "ts": micros(at_ns),
        }));
    }

    /// A slice of a thread. Slices of one thread nest or follow each other.
    pub fn slice(&mut self, pid: u32, tid: u32, slice: &Slice) {
        self.nested(pid, tid, slice, (slice.from_ns, slice.to_ns));
    }

    /// The outer one first; what is inside is cut to what it is in.
    fn nested(&mut self, pid: u32, tid: u32, slice: &Slice, (min, max): (u64, u64)) {
        let from = slice.from_ns.clamp(min, max);
        let to = slice.to_ns.clamp(from, max);
        self.events.push(json!({
            "ph": "X", "name": slice.name, "cat": slice.category, "pid": pid, "tid": tid,
            "ts": micros(from), "dur": micros(to - from), "args": slice.args,
        }));
        slice.inside.iter().for_each(|inner| self.nested(pid, tid, inner, (from, to)));
    }

    /// Slices that may overlap, on threads of their own from `first` on: each on the first one that is free when it begins.
    pub fn lanes(&mut self, pid: u32, first: u32, name: &str, mut slices: Vec<Slice>) {
        slices.sort_by_key(|slice| slice.from_ns);
        let mut lanes: Vec<u64> = Vec::new();
        for slice in slices {
            let free = lanes.iter().position(|free| *free <= slice.from_ns);
            let lane = free.unwrap_or_else(|| {
                self.thread(pid, first + lanes.len() as u32, name);
                lanes.push(0);
                lanes.len() - 1
            });
            // Two that touch would nest in some viewers.
            lanes[lane] = slice.to_ns + 1;
            self.slice(pid, first + lane as u32, &slice);
        }
    }

    /// The whole trace; `about` is kept with it and not shown.
    pub fn finish(self, about: Value) -> Value {
        json!({"displayTimeUnit": "ns", "otherData": about, "traceEvents": self.events})
    }
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::HashMap;

    /// What the Trace Event Format asks of a trace, and what Perfetto's importer drops where it is not so: each event has the
    /// members of its phase, of their types; slices of a thread nest or follow each other (perfetto.dev/docs/faq).
    pub(crate) fn assert_format(trace: &Value) {
        let mut slices: HashMap<(u64, u64), Vec<(i64, i64)>> = HashMap::new();
        for event in trace["traceEvents"].as_array().expect("the JSON object format") {
            let of = |key: &str| event[key].as_u64().unwrap_or_else(|| panic!("{key}: {event}"));
            let nanos = |key: &str| {
                let micros = event[key].as_f64().filter(|micros| *micros >= 0.0);
                (micros.unwrap_or_else(|| panic!("{key}: {event}")) * 1000.0).round() as i64
            };
            assert!(event["name"].is_string() && of("pid") <= u32::MAX.into(), "{event}");
            match event["ph"].as_str() {
                Some("M") => match event["name"].as_str().unwrap() {
                    "process_name" => assert!(event["args"]["name"].is_string()),
                    "process_sort_index" => assert!(event["args"]["sort_index"].is_u64()),
                    "thread_name" => assert!(event["args"]["name"].is_string() && of("tid") > 0),
                    "thread_sort_index" => assert!(event["args"]["sort_index"].is_u64()),
                    other => panic!("unknown metadata {other}"),
                },
                Some("i") => {
                    assert!(event["cat"].is_string() && event["s"] == "t", "{event}");
                    assert!(of("tid") > 0 && nanos("ts") >= 0, "{event}");
                }
                Some("X") => {
                    assert!(event["cat"].is_string() && event["args"].is_object(), "{event}");
                    let (from, long) = (nanos("ts"), nanos("dur"));
                    slices.entry((of("pid"), of("tid"))).or_default().push((from, from + long));
                }
                other => panic!("unknown phase {other:?}"),
            }
        }
        for mut slices in slices.into_values() {
            slices.sort_by_key(|(from, to)| (*from, -to));
            let mut open: Vec<i64> = Vec::new();
            for (from, to) in slices {
                open.retain(|end| *end > from);
                assert!(open.iter().all(|end| to <= *end), "{from}..{to} ends after what it is in");
                open.push(to);
            }
        }
    }

    fn slice((from_ns, to_ns): (u64, u64), inside: Vec<Slice>) -> Slice {
        let (name, category, args) = ("x".to_owned(), "c", json!({}));
        Slice { name, category, from_ns, to_ns, args, inside }
    }

    /// Every choice of three spans out of a few moments, at times as large as those of a machine that runs for a year.
    #[test]
    fn slices_that_overlap_in_any_way_are_written_as_the_format_asks() {
        let base = 365 * 24 * 3600 * 1_000_000_001_u64;
        let moments = [0, 1, 2, 999];
        let spans: Vec<(u64, u64)> = moments
            .into_iter()
            .flat_map(|from| moments.map(|to| (base + from, base + to)))
            .filter(|(from, to)| from <= to)
            .collect();
        for a in &spans {
            for b in &spans {
                for c in &spans {
                    let outer = slice(*a, vec![slice(*b, Vec::new())]);
                    let mut trace = TraceEvents::default();
                    trace.process(1, "p");
                    trace.lanes(
                        1,
                        1,
                        "l",
                        vec![outer, slice(*b, Vec::new()), slice(*c, Vec::new())],
                    );
                    trace.moment(1, 1, "c", "m", b.0);
                    assert_format(&trace.finish(json!({})));
                }
            }
        }
    }

    #[test]
    fn what_is_inside_is_cut_and_what_overlaps_has_lanes() {
        let mut trace = TraceEvents::default();
        let outer = slice((1000, 3000), vec![slice((500, 9000), Vec::new())]).later(1000);
        trace.lanes(7, 4, "requests", vec![outer, slice((2500, 2600), Vec::new())]);
        trace.moment(7, 1, "racer", "fork", 2100);
        let trace = trace.finish(json!({}));
        let all = trace["traceEvents"].as_array().unwrap();
        let spans: Vec<_> = all.iter().filter(|event| event["ph"] == "X").collect();
        let of =
            |at: usize| [&spans[at]["tid"], &spans[at]["ts"], &spans[at]["dur"]].map(Value::as_f64);
        assert_eq!(of(0), [Some(4.0), Some(2.0), Some(2.0)]);
        assert_eq!(of(1), of(0), "cut");
        assert_eq!(of(2), [Some(5.0), Some(2.5), Some(0.1)]);
        assert_eq!(all.last().unwrap()["ts"], 2.1);
    }
}
