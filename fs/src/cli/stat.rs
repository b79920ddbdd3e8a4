//! `inflight stat`: asks the server of a mount what it is doing.

use crate::image::{BLOCK, lock};
use anyhow::Context as _;
use clap::Args;
use indicatif::BinaryBytes;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of what, and how.
#[derive(Debug, Args)]
pub struct StatArgs {
    /// Again every second, until interrupted.
    #[arg(short, long)]
    watch: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Directory.
    mountpoint: PathBuf,
}

pub(super) fn run(args: &StatArgs) -> anyhow::Result<()> {
    loop {
        let report = fetch(&args.mountpoint)?;
        if args.json {
            println!("{report}");
        } else {
            print(&report);
        }
        if !args.watch || super::output::is_closed() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The server's report: from its socket, or, where that cannot be had (another network namespace, another user's mount),
/// through the attribute that the root of the mount has.
pub fn fetch(mountpoint: &Path) -> anyhow::Result<Value> {
    if let Ok(told) = crate::mounted::status(mountpoint) {
        return Ok(serde_json::from_slice(&told)?);
    }
    let name = std::str::from_utf8(crate::ops::STAT).expect("a constant name");
    let value = xattr::get(mountpoint, name).with_context(|| unreached(mountpoint))?.with_context(
        || format!("{} is not the root of an Inflight mount", mountpoint.display()),
    )?;
    Ok(serde_json::from_slice(&value)?)
}

/// What to say of a directory that gives no attributes.
fn unreached(mountpoint: &Path) -> String {
    let dir = mountpoint.display();
    let at = std::path::absolute(mountpoint).unwrap_or_else(|_| mountpoint.to_owned());
    match lock::image_of(&at) {
        // A mount without allow_other.
        Some(_) => format!("{dir} is the mount of another user; that user, or root, may ask"),
        None => dir.to_string(),
    }
}

fn print(report: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let line = |title: &str, what: String| println!("{title:<11} {what}");
    let how = if report["read_only"] == true { ", read-only" } else { "" };
    line("image", format!("{} (server {}{how})", text(&report["image"]), report["pid"]));
    line("transport", text(&report["transport"]));
    let (requests, pins) = (number(&report["in_flight"]), number(&report["pins"]));
    line("in flight", format!("{requests} requests; {pins} reads hold blocks"));
    let space = &report["space"];
    let blocks = |key: &str| size(number(&space[key]) * BLOCK);
    let [free, total, waiting] = ["free", "total", "waiting"].map(blocks);
    line("space", format!("{free} free of {total}; {waiting} wait for a commit or an I/O"));
    line(
        "metadata",
        format!("{} inodes cached; {} commits", report["inodes_cached"], report["commits"]),
    );
    let pool = &report["pool"];
    let [bytes, used] = ["bytes", "in_use"].map(|key| size(number(&pool[key])));
    let kept = match pool["pin"].as_str() {
        Some("io_uring") => "pinned by io_uring",
        Some("mlock") => "locked (mlock)",
        _ => "not pinned",
    };
    let pages = if pool["backing"] == "huge" { "huge pages" } else { "small pages" };
    let others = number(&pool["fallbacks"]);
    line("buffers", format!("{used} of {bytes} in use, {pages}, {kept}; {others} from elsewhere"));
    for reason in pool["reasons"].as_array().into_iter().flatten() {
        line("", text(reason));
    }
    let pipes = &report["pipes"];
    line(
        "pipes",
        format!(
            "{} idle, of {} slots; {} opened, {} taken again, {} thrown away",
            pipes["idle"], pipes["slots"], pipes["opened"], pipes["reused"], pipes["discarded"]
        ),
    );
    print_ways(report);
    print_operations(report);
}

fn print_ways(report: &Value) {
    let counts = ["reads", "writes"].into_iter().flat_map(|kind| {
        let ways = report[kind].as_object().into_iter().flatten();
        ways.map(move |(way, count)| (format!("{kind}, {way}"), count))
    });
    let used: Vec<_> = counts.filter(|(_, count)| count["requests"] != 0).collect();
    if used.is_empty() {
        return;
    }
    println!("");
    println!("{:<24} {:>9} {:>10}", "WAY", "REQUESTS", "BYTES");
    for (way, count) in used {
        let bytes = size(count["bytes"].as_u64().unwrap_or(0));
        println!("{way:<24} {:>9} {bytes:>10}", count["requests"]);
    }
}

fn print_operations(report: &Value) {
    let operations = report["operations"].as_object().filter(|all| !all.is_empty());
    let Some(operations) = operations else { return };
    println!("");
    println!("{:<24} {:>9} {:>10} {:>10} {:>10}", "OPERATION", "TIMES", "MEDIAN", "99%", "LONGEST");
    for (name, latency) in operations {
        let [median, most, longest] =
            ["p50_us", "p99_us", "max_us"].map(|key| time(latency[key].as_f64().unwrap_or(0.0)));
        println!("{name:<24} {:>9} {median:>10} {most:>10} {longest:>10}", latency["count"]);
    }
}

/// Bytes, as people read them.
pub fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// Microseconds, as people read them.
pub fn time(micros: f64) -> String {
    format!("{:.1?}", Duration::from_nanos((micros * 1000.0) as u64))
}
