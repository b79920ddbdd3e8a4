//! What `run` is told, and the order that comes of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::run::plan::{self, Item, Mode, Wanted};
use crate::run::{self, Order, results, table};
use crate::target::{Served, Target, programs};

/// Its command line.
#[derive(Debug, clap::Args)]
pub struct RunArguments {
    /// Cases by short or long name, each with an optional :PATTERN of variants, e.g. 'FK1:store/aio*'.
    cases: Vec<String>,
    /// Cases of this group; may be repeated.
    #[arg(short, long)]
    group: Vec<String>,
    /// Leave these cases out; may be repeated.
    #[arg(short = 'x', long)]
    exclude: Vec<String>,
    /// Leave out the cases in this file, one a line, '#' begins a remark; may be repeated.
    #[arg(short = 'E', long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Target: inflight, ext4, xfs, btrfs, vfat, tmpfs, overlay, or a directory (./DIR).
    #[arg(long, default_value = "inflight")]
    on: String,
    /// Target: a FUSE server behind `inflight-gate`. {} is its mount point, {dir} a fresh folder for it, e.g.
    /// 'fuse-overlayfs -f -o lowerdir=/,upperdir=/tmp/u,workdir=/tmp/w {}'.
    #[arg(long, value_name = "COMMAND", conflicts_with = "on")]
    server: Option<String>,
    /// That server mounts by itself and is caught at it: see `inflight-gate --help`.
    #[arg(long, requires = "server")]
    intercept: bool,
    /// How: gate parks requests and is certain, stress hopes for the best and runs on anything (default: as each case does).
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Mount options of every Inflight mount, or of `inflight-gate` in front of a server.
    #[arg(short, long, default_value = "")]
    options: String,
    /// Seed; printed when it is chosen for you.
    #[arg(long)]
    seed: Option<u64>,
    /// Only the I-th of N parts of the plan.
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<(u64, u64)>,
    /// Play everything so many times.
    #[arg(long, default_value_t = 1)]
    repeat: u64,
    /// Folder for results, which has none yet (default: the time of day below race-results, where `latest` is the newest).
    #[arg(long)]
    pub results: Option<PathBuf>,
    /// Folder below which images and mounts are made (default: that of temporary files).
    #[arg(long)]
    pub scratch: Option<PathBuf>,
    /// Longest that one variant may take, in seconds (default: 60, more for long stress runs; longer by itself under
    /// emulation and KASAN).
    #[arg(long)]
    bound: Option<u64>,
    /// How long each variant of a stress run lasts: 500ms, 60s or 5m.
    #[arg(long, default_value = "5s", value_parser = inflight_gate::cli::duration)]
    time: Duration,
    /// Judge without the table of expected failures: every harm is a FAIL, as `git bisect` wants it.
    #[arg(long)]
    raw: bool,
    /// Expected failures of one's own, in TOML (harness/README.md): they count beside the table, or with --raw in its place.
    #[arg(long, value_name = "FILE")]
    expected: Option<PathBuf>,
    /// Print only what is unexpected, and the summary.
    #[arg(short, long)]
    quiet: bool,
    /// Print JSON, one object a line, as things happen.
    #[arg(long)]
    json: bool,
    /// Print KTAP, as the kernel's own tests do (Documentation/dev-tools/ktap.rst).
    #[arg(long, conflicts_with_all = ["json", "quiet"])]
    ktap: bool,
}

/// What is to be run.
///
/// # Errors
/// Something is named that is not there.
pub fn order(arguments: RunArguments) -> anyhow::Result<Order> {
    let target = match &arguments.server {
        Some(command) => Target::Server(Served::new(command, arguments.intercept)?),
        None => Target::parse(&arguments.on)?,
    };
    let mut groups = arguments.group;
    if arguments.mode == Some(Mode::Stress) && groups.is_empty() && arguments.cases.is_empty() {
        groups.push("stress".to_owned());
    }
    let mut exclude = arguments.exclude;
    for file in &arguments.exclude_file {
        exclude.extend(excluded(file)?);
    }
    let wanted = Wanted { groups, cases: arguments.cases, exclude, shard: arguments.shard };
    let once = plan::plan(&wanted)?;
    if let Some(mode) = arguments.mode {
        plan::check_mode(&once, mode)?;
    }
    programs::check_options(&target, &arguments.options)?;
    let count = once.len() as u64;
    let again = |round: u64| {
        let number =
            move |item: &Item| Item { number: round * count + item.number, ..item.clone() };
        once.iter().map(number).collect::<Vec<_>>()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = arguments.seed.unwrap_or(now.as_nanos() as u64 & 0xFFFF_FFFF);
    let results = match arguments.results {
        Some(folder) => results::unused(folder)?,
        None => results::named(now),
    };
    Ok(Order {
        items: (0..arguments.repeat).flat_map(again).collect(),
        options: arguments.options,
        seed,
        results,
        scratch: arguments.scratch.unwrap_or_else(std::env::temp_dir),
        bound: arguments.bound.map_or_else(|| run::bound(arguments.time), Duration::from_secs),
        time: arguments.time,
        quiet: arguments.quiet,
        raw: arguments.raw,
        json: arguments.json,
        ktap: arguments.ktap,
        own: arguments.expected.as_deref().map_or(Ok(Vec::new()), table::read)?,
        ..Order::empty(target)
    })
}

/// The cases that a file of exclusions names.
fn excluded(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let named = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    Ok(text.lines().map(named).filter(|name| !name.is_empty()).collect())
}

fn shard(text: &str) -> anyhow::Result<(u64, u64)> {
    let (this, of) = text.split_once('/').context("a shard looks like 2/5")?;
    Ok((this.parse()?, of.parse()?))
}
