//! `inflight stat`: asks the server of a mount what it is doing.

use anyhow::Context as _;
use clap::Args;
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

/// The server's report, through the attribute that its root directory has.
pub fn fetch(mountpoint: &Path) -> anyhow::Result<Value> {
    let name = std::str::from_utf8(crate::ops::STAT).expect("a constant name");
    let value = xattr::get(mountpoint, name)
        .with_context(|| mountpoint.display().to_string())?
        .with_context(|| {
            format!("{} is not the root of an Inflight mount", mountpoint.display())
        })?;
    Ok(serde_json::from_slice(&value)?)
}

fn print(report: &Value) {
    let text = |key: &str| report[key].as_str().unwrap_or("?").to_owned();
    println!("image      {} (server {})", text("image"), report["pid"]);
    println!("transport  {}", text("transport"));
    for (title, key) in [("reads", "reads"), ("writes", "writes")] {
        for (way, count) in report[key].as_object().into_iter().flatten() {
            if count["requests"] != 0 {
                println!(
                    "{title:<10} {way:<16} {} requests, {} bytes",
                    count["requests"], count["bytes"]
                );
            }
        }
    }
    println!("in flight  {} requests, {} pins", report["in_flight"], report["pins"]);
    let space = &report["space"];
    println!(
        "blocks     {} free of {}, {} wait for a commit or an I/O",
        space["free"], space["total"], space["waiting"]
    );
    println!("memory     {} inodes cached, {} commits", report["inodes_cached"], report["commits"]);
    println!("buffers    {}", report["pool"]);
    println!("pipes      {}", report["pipes"]);
    for (name, l) in report["operations"].as_object().into_iter().flatten() {
        println!(
            "{name:<16} {:>9} times, median {} us, 99% {} us, longest {} us",
            l["count"], l["p50_us"], l["p99_us"], l["max_us"]
        );
    }
}
