//! The request log as people see it: a table, JSON lines, a trace.

mod common;

use common::{INFLIGHT, Mount, Place, can_mount, ok};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn mounted(place: &Place, socket: &str) -> Mount {
    let mount = place.mount("transport=dev", &["--gate", socket]);
    std::fs::write(mount.path("a"), [7; 20_000]).expect("write");
    File::open(mount.path("a")).expect("open").sync_all().expect("fsync");
    common::drop_caches();
    mount
}

/// Reads 4 KiB past the page cache.
fn dd(mount: &Mount) -> Child {
    Command::new("dd")
        .args(["iflag=direct", "bs=4096", "skip=1", "count=1", "status=none"])
        .arg(format!("if={}", mount.path("a").display()))
        .stdout(Stdio::null())
        .spawn()
        .expect("dd")
}

#[test]
fn the_table_names_phases_and_who_let_a_request_go() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let socket = place.dir.path().join("gate");
    let socket = socket.to_str().expect("path");
    let mount = mounted(&place, socket);
    ok(&["gate", socket, "park", "--op", "read", "--phase", "prepared", "--for", "60s"]);
    let mut reader = dd(&mount);
    ok(&["gate", socket, "wait", "--parked", "1"]);
    let row = |table: &str| -> String {
        let mut rows = table.lines().filter(|line| line.contains(" read "));
        rows.next_back().unwrap_or_else(|| panic!("no read in\n{table}")).to_owned()
    };
    let open = row(&ok(&["gate", socket, "log"]));
    assert!(open.contains(" parked ") && open.contains("parked at prepared by rule 1 since"));
    ok(&["gate", socket, "open"]);
    assert!(reader.wait().expect("wait").success());
    let table = ok(&["gate", socket, "log"]);
    let head = table.lines().next().expect("a heading");
    for column in ["ARRIVED", "OP", "INO", "PID", "RANGE", "TOOK", "RESULT", "PHASES"] {
        assert!(head.contains(column), "{head}");
    }
    let done = row(&table);
    let pid = reader.id().to_string();
    for what in [" 4096..8192 ", " 4096 ", &pid, "prepared +", "let go by client", "applied +"] {
        assert!(done.contains(what), "no {what:?} in {done}");
    }
    let date = Command::new("date").args(["-u", "+%Y-%m-%dT%H:"]).output().expect("date");
    let (date, year) = (common::text(&date.stdout), done.get(..4));
    // The hour may have changed since.
    assert!(done.starts_with(date.trim()) || date.contains(year.expect("a year")), "{done}");
    let lines = ok(&["gate", socket, "log", "--json"]);
    let records: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(records.len() + 1, table.lines().count());
    assert!(records.iter().any(|record| record["op"] == "read" && record["holds"].is_array()));
    mount.umount();
}

/// Name, category, lane, from and to in ns.
type Slice<'t> = (&'t str, &'t str, (u64, u64), (u64, u64));

fn slices(trace: &Value) -> Vec<Slice<'_>> {
    let events = trace["traceEvents"].as_array().expect("events").iter();
    let slices = events.filter(|event| event["ph"] == "X").map(|event| {
        let text = |key: &str| event[key].as_str().expect("text");
        let number = |key: &str| event[key].as_u64().expect("a number");
        let nanos = |key: &str| (event[key].as_f64().expect("µs") * 1000.0).round() as u64;
        let lane = (number("pid"), number("tid"));
        (text("name"), text("cat"), lane, (nanos("ts"), nanos("ts") + nanos("dur")))
    });
    slices.collect()
}

/// Complete events of a lane nest or lie beside each other, or a viewer drops them.
fn assert_nest(slices: &[Slice<'_>]) {
    let mut open: HashMap<(u64, u64), Vec<u64>> = HashMap::new();
    for (name, _, lane, (from, to)) in slices {
        let stack = open.entry(*lane).or_default();
        while stack.last().is_some_and(|end| *end <= *from) {
            stack.pop();
        }
        assert!(stack.last().is_none_or(|end| to <= end), "{name} at {from}");
        stack.push(*to);
    }
}

#[test]
fn a_trace_has_requests_their_phases_and_the_kernels_side() {
    if !can_mount() {
        return;
    }
    let place = Place::new(16);
    let socket = place.dir.path().join("gate");
    let socket = socket.to_str().expect("path");
    let mount = mounted(&place, socket);
    let file = place.dir.path().join("trace.json");
    let mut recorder = Command::new(INFLIGHT)
        .args(["gate", socket, "log", "--for", "60s", "--perfetto"])
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()
        .expect("inflight");
    let instance = format!("/sys/kernel/tracing/instances/inflight-{}", recorder.id());
    let has_tracepoints = Path::new("/sys/kernel/tracing/events/fuse/fuse_request_send").exists();
    let enabled = || std::fs::read_to_string(format!("{instance}/events/fuse/enable"));
    let is_recording = || match has_tracepoints {
        true => enabled().is_ok_and(|text| text.trim() == "1"),
        false => std::fs::metadata(&file).is_ok(),
    };
    while !is_recording() {
        assert!(recorder.try_wait().expect("wait").is_none(), "it ended");
        std::thread::yield_now();
    }
    ok(&["gate", socket, "park", "--op", "read", "--phase", "applied", "--count", "1"]);
    let mut reader = dd(&mount);
    ok(&["gate", socket, "wait", "--parked", "1"]);
    ok(&["gate", socket, "release"]);
    assert!(reader.wait().expect("wait").success());
    let recording = nix::unistd::Pid::from_raw(recorder.id() as i32);
    nix::sys::signal::kill(recording, nix::sys::signal::SIGINT).expect("kill");
    assert!(recorder.wait().expect("wait").success());
    assert!(!Path::new(&instance).exists(), "the instance is left");
    let trace = std::fs::read(&file).expect("a trace");
    let trace: Value = serde_json::from_slice(&trace).expect("JSON");
    let slices = slices(&trace);
    let pid = u64::from(reader.id());
    // Of several with this name, the one in which the read was held.
    let find = |name: &str, category: &str, (from, to): (u64, u64)| {
        let mut found = slices.iter().filter(|(n, c, (of, _), at)| {
            *n == name && *c == category && *of == pid && at.0 <= from && to <= at.1
        });
        *found.next().unwrap_or_else(|| panic!("no {category} {name} of {pid} in {slices:?}"))
    };
    let parked = slices.iter().find(|slice| slice.0 == "parked by rule 1").expect("a stay");
    let mut chain = vec![*parked, find("applied", "phase", parked.3)];
    chain.push(find("read", "server", parked.3));
    if has_tracepoints {
        chain.push(find("read", "kernel", parked.3));
    }
    for pair in chain.windows(2) {
        assert_eq!(pair[0].2, pair[1].2, "they are on one lane: {pair:?}");
        assert!(pair[1].3.0 <= pair[0].3.0 && pair[0].3.1 <= pair[1].3.1, "{pair:?}");
    }
    assert_nest(&slices);
    let events = trace["traceEvents"].as_array().expect("events");
    let is_name = |event: &&Value| event["name"] == "process_name" && event["pid"] == pid;
    let name = events.iter().find(is_name).expect("a name");
    if has_tracepoints {
        assert_eq!(name["args"]["name"], "dd");
    }
    mount.umount();
}
