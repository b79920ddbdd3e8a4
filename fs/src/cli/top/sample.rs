//! Two reports of a server, and what happened between them.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// A report, and when it was made.
pub struct Sample {
    report: Value,
    at: Instant,
}

/// What is drawn.
pub struct Frame {
    /// The report of now.
    pub report: Value,
    /// The busiest first.
    pub operations: Vec<Operation>,
    /// The busiest first.
    pub processes: Vec<Process>,
    /// Bytes read and written, each a second.
    pub throughput: (f64, f64),
}

/// What happened of one kind.
#[derive(Debug, PartialEq)]
pub struct Operation {
    pub name: String,
    /// Each second, since the last sample.
    pub rate: f64,
    /// Microseconds each took on average since the last sample; nothing when there was none.
    pub mean_us: Option<f64>,
    /// Since the mount: how many, and microseconds of the median, the 99th percentile and the longest.
    pub count: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

/// Who asks.
#[derive(Debug, PartialEq)]
pub struct Process {
    pub pid: u64,
    pub name: String,
    pub in_flight: usize,
    /// Requests and bytes, each a second.
    pub rate: f64,
    pub bytes: f64,
    /// Requests since the mount.
    pub requests: u64,
}

impl Sample {
    pub fn take(mountpoint: &Path) -> anyhow::Result<Sample> {
        Ok(Sample { report: crate::cli::stat::fetch(mountpoint)?, at: Instant::now() })
    }

    /// What happened since an earlier one.
    pub fn since(&self, before: &Sample) -> Frame {
        let seconds = (self.at - before.at).max(Duration::from_millis(1)).as_secs_f64();
        let bytes = |kind: &str| {
            let sum = |report: &Value| -> u64 {
                let ways = report[kind].as_object().into_iter().flatten();
                ways.map(|(_, count)| count["bytes"].as_u64().unwrap_or(0)).sum()
            };
            sum(&self.report).saturating_sub(sum(&before.report)) as f64 / seconds
        };
        Frame {
            operations: operations(&self.report, &before.report, seconds),
            processes: processes(&self.report, &before.report, seconds),
            throughput: (bytes("reads"), bytes("writes")),
            report: self.report.clone(),
        }
    }
}

fn operations(now: &Value, before: &Value, seconds: f64) -> Vec<Operation> {
    let all = now["operations"].as_object().into_iter().flatten();
    let mut all: Vec<Operation> = all
        .map(|(name, told)| {
            let earlier = &before["operations"][name];
            let micros = |of: &Value, key: &str| of[key].as_f64().unwrap_or(0.0);
            let count = told["count"].as_u64().unwrap_or(0);
            let new = count.saturating_sub(earlier["count"].as_u64().unwrap_or(0));
            let took = micros(told, "total_us") - micros(earlier, "total_us");
            Operation {
                name: name.clone(),
                rate: new as f64 / seconds,
                mean_us: (new > 0).then(|| took / new as f64),
                count,
                p50_us: micros(told, "p50_us"),
                p99_us: micros(told, "p99_us"),
                max_us: micros(told, "max_us"),
            }
        })
        .collect();
    all.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.count.cmp(&a.count)));
    all
}

fn processes(now: &Value, before: &Value, seconds: f64) -> Vec<Process> {
    let told = |report: &Value| -> BTreeMap<u64, (u64, u64)> {
        let all = report["processes"].as_array().into_iter().flatten();
        all.filter_map(|process| {
            let number = |key: &str| process[key].as_u64();
            Some((number("pid")?, (number("requests")?, number("bytes")?)))
        })
        .collect()
    };
    let earlier = told(before);
    let flying = now["requests"].as_array();
    let mut known = told(now);
    // The server remembers so many processes; one that waits may have been forgotten for those that came since.
    for pid in flying.into_iter().flatten().filter_map(|request| request["pid"].as_u64()) {
        known.entry(pid).or_default();
    }
    let mut all: Vec<Process> = known
        .into_iter()
        .map(|(pid, (requests, bytes))| {
            let (had, had_bytes) = earlier.get(&pid).copied().unwrap_or_default();
            let is_theirs = |request: &&Value| request["pid"] == pid;
            Process {
                pid,
                name: name(pid),
                in_flight: flying.into_iter().flatten().filter(is_theirs).count(),
                // Whoever was forgotten meanwhile begins anew.
                rate: requests.saturating_sub(had) as f64 / seconds,
                bytes: bytes.saturating_sub(had_bytes) as f64 / seconds,
                requests,
            }
        })
        .collect();
    let gone = gone(&mut all);
    all.extend(gone);
    all.sort_by(|a, b| {
        let busier = b.in_flight.cmp(&a.in_flight).then(b.rate.total_cmp(&a.rate));
        busier.then(b.requests.cmp(&a.requests))
    });
    all
}

/// Takes out those that have ended and have nothing in flight: one line for all of them, as each of a script's commands would
/// have its own.
fn gone(all: &mut Vec<Process>) -> Option<Process> {
    let gone: Vec<Process> = all.extract_if(.., |p| p.name == ENDED && p.in_flight == 0).collect();
    let name = match gone.len() {
        0 => return None,
        1 => "1 that ended".to_owned(),
        count => format!("{count} that ended"),
    };
    Some(Process {
        pid: 0,
        name,
        in_flight: 0,
        rate: gone.iter().map(|process| process.rate).sum(),
        bytes: gone.iter().map(|process| process.bytes).sum(),
        requests: gone.iter().map(|process| process.requests).sum(),
    })
}

/// What stands for the name of a process that is not there any more.
const ENDED: &str = "(ended)";

fn name(pid: u64) -> String {
    if pid == 0 {
        return "(kernel)".to_owned();
    }
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    comm.map_or_else(|_| ENDED.to_owned(), |comm| comm.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rates_and_means_are_those_of_the_time_between() {
        let at = Instant::now();
        let report = |count: u64, total: f64, bytes: u64| {
            json!({
                "operations": {"read": {"count": count, "total_us": total, "p50_us": 5.0}},
                "reads": {"copy": {"requests": count, "bytes": bytes}},
                "processes": [{"pid": 0, "requests": count, "bytes": bytes}],
                "requests": [{"pid": 0}],
            })
        };
        let before = Sample { report: report(10, 100.0, 4096), at };
        let later = at + Duration::from_secs(2);
        let now = Sample { report: report(30, 700.0, 8192), at: later };
        let frame = now.since(&before);
        let read = &frame.operations[0];
        assert_eq!((read.rate, read.mean_us, read.p50_us), (10.0, Some(30.0), 5.0));
        assert_eq!(frame.throughput, (2048.0, 0.0));
        let kernel = &frame.processes[0];
        assert_eq!((kernel.name.as_str(), kernel.rate, kernel.in_flight), ("(kernel)", 10.0, 1));
        assert_eq!(frame.processes.len(), 1);
        let still = Sample { report: report(30, 700.0, 8192), at: later }.since(&now);
        assert_eq!((still.operations[0].rate, still.operations[0].mean_us), (0.0, None));
    }

    #[test]
    fn who_waits_comes_first_and_those_that_ended_have_one_line() {
        // Larger than any pid (PID_MAX_LIMIT of the kernel), so nobody has it.
        let nobody = 1 << 23;
        let own = u64::from(std::process::id());
        let asked = |pid: u64| json!({"pid": pid, "requests": 10, "bytes": 4096});
        let report = json!({
            "processes": [asked(nobody), asked(nobody + 1)],
            "requests": [{"pid": own}],
        });
        let at = Instant::now();
        let before = Sample { report: json!({}), at };
        let frame = Sample { report, at: at + Duration::from_secs(1) }.since(&before);
        let [waits, gone] = &frame.processes[..] else { panic!("{:?}", frame.processes) };
        assert_eq!((waits.pid, waits.in_flight), (own, 1), "though the server has forgotten it");
        assert_eq!((gone.name.as_str(), gone.requests, gone.rate), ("2 that ended", 20, 20.0));
    }
}
