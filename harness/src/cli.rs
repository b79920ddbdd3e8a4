//! The command line of `inflight-race`.

pub mod compare;
pub mod demo;
pub mod kernels;
pub mod mechanisms;
pub mod mutants;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{CommandFactory as _, Parser, Subcommand};
use inflight_gate::pages::{self, Shell};

use crate::cases::expect::{Applies, EVER, Expected, Must, Seen};
use crate::cases::variant::Variant;
use crate::fixture::raw_server;
use crate::kit::kernel::Kernel;
use crate::matrix;
use crate::probe;
use crate::report;
use crate::run::plan::{self, Item, Mode, Wanted};
use crate::run::results::{self, Single};
use crate::run::worker;
use crate::run::{self, Order};
use crate::target::mounted;
use crate::target::session;
use crate::target::{Served, Target};
use crate::vm;
use crate::vm::machine::Accel;
use crate::vm::message::{Job, Task};

/// Exit code of a wrong command line.
pub const USAGE: i32 = 2;

/// Races truncate, fork and their relatives against I/O that is in flight, on real mounts.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the cases: what each claims, its groups and variants, where it must fail.
    List {
        /// Only cases of this group.
        #[arg(short, long, conflicts_with = "matrix")]
        group: Option<String>,
        /// Also the variants.
        #[arg(short, long, conflicts_with = "matrix")]
        variants: bool,
        /// The matrix: the combinations that are played, and those that are not, with the reasons.
        #[arg(long)]
        matrix: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run cases.
    Run(Box<RunArguments>),
    /// The guided tour: splice without ITER_PIPE, pins and fork here and on Linux 6.1, the zero page, live bugs.
    Demo {
        /// Target: inflight, ext4 or xfs.
        #[arg(long, default_value = "inflight")]
        on: String,
        /// Folder for results.
        #[arg(long, default_value = "race-results/demo")]
        results: PathBuf,
        /// Folder below which images and mounts are made.
        #[arg(long, default_value_os_t = std::env::temp_dir())]
        scratch: PathBuf,
    },
    /// What a directory's filesystem does: is fork safe beside O_DIRECT here, which splice path is taken?
    Probe {
        /// Any directory that can be written to.
        folder: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run cases under another kernel, in a virtual machine of its own.
    Vm {
        #[command(flatten)]
        options: vm::Options,
        /// Folder for results, as for `run`.
        #[arg(long)]
        results: Option<PathBuf>,
        /// `run` and its arguments, or `exec [--bound SECONDS] PROGRAM [ARGUMENT]...`: any program of this machine.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run cases on every kernel in the cache and on this one, and print one table of what was seen.
    Kernels {
        /// Cases, as for `run`.
        cases: Vec<String>,
        /// Cases of this group; may be repeated.
        #[arg(short, long)]
        group: Vec<String>,
        /// Leave these cases out; may be repeated.
        #[arg(short = 'x', long)]
        exclude: Vec<String>,
        /// Targets.
        #[arg(long, value_delimiter = ',', default_value = "inflight")]
        on: Vec<String>,
        #[command(flatten)]
        options: kernels::Options,
    },
    /// The mechanisms of the kernel that the races are about, each with what shows it here.
    Mechanisms(mechanisms::Arguments),
    /// Run the variant of a result again.
    Replay {
        /// A variant's file in a results folder.
        result: PathBuf,
    },
    /// What changed from one run to another: variants whose verdicts differ. Exit code 1 where the newer has more harm.
    Compare {
        /// Results folder of the older run.
        old: PathBuf,
        /// Results folder of the newer run.
        new: PathBuf,
    },
    /// Merge results into one page or file.
    Report {
        /// Results folders (shards of one run, or runs on several targets and kernels), or files of single variants.
        #[arg(required = true)]
        results: Vec<PathBuf>,
        #[command(flatten)]
        outputs: report::Outputs,
    },
    /// The proof of the cases: each must find a server with the defect that it is there for.
    Mutants {
        /// Folder below which images and mounts are made.
        #[arg(long, default_value_os_t = std::env::temp_dir())]
        scratch: PathBuf,
    },
    /// Print a completion script for a shell.
    Completions {
        /// Which.
        shell: Shell,
    },
    /// Print the manual page, or write those of all commands.
    #[command(hide = true)]
    Manual {
        /// A folder for the pages of all commands; without, the page of the program is printed.
        dir: Option<PathBuf>,
    },
    /// What the runner starts to clean up after itself.
    #[command(hide = true)]
    Guard {
        /// Folder of the session.
        root: PathBuf,
    },
    /// A FUSE server that splices, which some cases start.
    #[command(hide = true)]
    RawServer {
        /// Where to mount.
        at: PathBuf,
        /// Settings as JSON.
        settings: String,
    },
    /// What a guest starts: plays the order of a task, and says what its workers say.
    #[command(hide = true)]
    Play {
        /// The task.
        task: PathBuf,
    },
    /// What the runner starts to play variants.
    #[command(hide = true)]
    Worker {
        /// Folder of the session.
        root: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// Cases by short or long name, each with an optional :PATTERN of variants, e.g. 'FK1:store/aio*'.
    cases: Vec<String>,
    /// Cases of this group; may be repeated.
    #[arg(short, long)]
    group: Vec<String>,
    /// Leave these cases out; may be repeated.
    #[arg(short = 'x', long)]
    exclude: Vec<String>,
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
    results: Option<PathBuf>,
    /// Folder below which images and mounts are made (default: that of temporary files).
    #[arg(long)]
    scratch: Option<PathBuf>,
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
    /// Print only what is unexpected, and the summary.
    #[arg(short, long)]
    quiet: bool,
    /// Print JSON, one object a line, as things happen.
    #[arg(long)]
    json: bool,
}

/// Runs the command; gives its exit code.
///
/// # Errors
/// What went wrong before a verdict was possible.
pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    match arguments.command {
        Command::List { matrix: true, json, .. } => matrix::list::print(json).map(|()| 0),
        Command::List { group, variants, json, .. } => list(group.as_deref(), variants, json),
        Command::Run(arguments) => match order(*arguments) {
            Ok(order) => run::run(order),
            Err(error) => Ok(usage(&error)),
        },
        Command::Demo { on, results, scratch } => match Target::parse(&on) {
            Ok(target) => demo::tour(&target, &results, &scratch),
            Err(error) => Ok(usage(&error)),
        },
        Command::Probe { folder, json } => probe::print(&folder, json).map(|()| 0),
        Command::Vm { options, results, command } => in_guest(&options, results, command),
        Command::Kernels { cases, group, exclude, on, options } => {
            let rest = selection(&cases, &group, &exclude);
            let command = format!("kernels {} --on {} --markdown", rest.join(" "), on.join(","));
            match kernel_orders(&rest, on) {
                Ok(orders) => kernels::run(&options, &orders, &command),
                Err(error) => Ok(usage(&error)),
            }
        }
        Command::Play { task } => {
            let task: Task = serde_json::from_slice(&std::fs::read(task)?)?;
            match task.job {
                Job::Mechanisms(ids) => crate::mechanisms::relay(&ids).map(|()| 0),
                Job::Run(order) => run::run(*order),
                Job::Program { .. } => anyhow::bail!("a program is started without a player"),
            }
        }
        Command::Mechanisms(arguments) => mechanisms::run(&arguments),
        Command::Mutants { scratch } => mutants::prove(&scratch),
        Command::Replay { result } => match results::read_entry(&result) {
            Ok(single) => replay(&result, single),
            Err(error) => Ok(usage(&error)),
        },
        Command::Compare { old, new } => match compare::read(&old, &new) {
            Ok((old, new)) => Ok(compare::print(&old, &new)),
            Err(error) => Ok(usage(&error)),
        },
        Command::Report { results, outputs } => match report::read(&results) {
            Ok(runs) => report::report(runs, &outputs),
            Err(error) => Ok(usage(&error)),
        },
        Command::Completions { shell } => {
            pages::completions(Arguments::command(), shell, &mut std::io::stdout())?;
            Ok(0)
        }
        Command::Manual { dir } => {
            pages::manual(Arguments::command(), &mut std::io::stdout(), dir.as_deref())?;
            Ok(0)
        }
        Command::Guard { root } => session::guard(&root).map(|()| 0),
        Command::RawServer { at, settings } => {
            raw_server::serve(&at, serde_json::from_str(&settings)?).map(|()| 0)
        }
        Command::Worker { root } => worker::work(&root).map(|()| 0),
    }
}

fn usage(error: &anyhow::Error) -> i32 {
    eprintln!("inflight-race: {error:#}");
    USAGE
}

fn order(arguments: RunArguments) -> anyhow::Result<Order> {
    let target = match &arguments.server {
        Some(command) => Target::Server(Served::new(command, arguments.intercept)?),
        None => Target::parse(&arguments.on)?,
    };
    let mut groups = arguments.group;
    if arguments.mode == Some(Mode::Stress) && groups.is_empty() && arguments.cases.is_empty() {
        groups.push("stress".to_owned());
    }
    let wanted = Wanted {
        groups,
        cases: arguments.cases,
        exclude: arguments.exclude,
        shard: arguments.shard,
    };
    let once = plan::plan(&wanted)?;
    if let Some(mode) = arguments.mode {
        plan::check_mode(&once, mode)?;
    }
    mounted::check_options(&target, &arguments.options)?;
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
        ..Order::empty(target)
    })
}

/// The words of a command line that select cases.
fn selection(cases: &[String], groups: &[String], exclude: &[String]) -> Vec<String> {
    let groups = groups.iter().map(|group| format!("--group={group}"));
    let exclude = exclude.iter().map(|case| format!("--exclude={case}"));
    cases.iter().cloned().chain(groups).chain(exclude).collect()
}

/// One order for each target.
fn kernel_orders(selection: &[String], targets: Vec<String>) -> anyhow::Result<Vec<Order>> {
    let one = |target| {
        let words = ["in-guest", "run", "--quiet", "--on"].map(str::to_owned).into_iter();
        let words = words.chain([target]).chain(selection.iter().cloned());
        match InGuest::try_parse_from(words)? {
            InGuest::Run(arguments) => guest_order(None, *arguments),
            InGuest::Exec { .. } => unreachable!("the words begin with run"),
        }
    };
    targets.into_iter().map(one).collect()
}

/// What can be done in a guest.
#[derive(Debug, Parser)]
#[command(name = "inflight-race vm --kernel SPEC --", version)]
enum InGuest {
    /// Run cases.
    Run(Box<RunArguments>),
    /// Run a program, with its shared libraries; its folder is an empty ext4.
    Exec {
        /// Longest that it may write nothing, in seconds.
        #[arg(long, default_value_t = 600)]
        bound: u64,
        /// A program that it finds in its PATH; may be repeated.
        #[arg(long = "with", value_name = "PROGRAM")]
        beside: Vec<String>,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

fn in_guest(
    options: &vm::Options,
    results: Option<PathBuf>,
    command: Vec<String>,
) -> anyhow::Result<i32> {
    let words = ["inflight-race vm --kernel SPEC --".to_owned()].into_iter().chain(command);
    match InGuest::try_parse_from(words).unwrap_or_else(|error| error.exit()) {
        InGuest::Run(arguments) => match guest_order(results, *arguments) {
            Ok(order) => vm::run(options, order),
            Err(error) => Ok(usage(&error)),
        },
        InGuest::Exec { bound, beside, words } => {
            vm::exec::exec(options, &words, &beside, Duration::from_secs(bound))
        }
    }
}

/// The order of a run in a guest.
fn guest_order(results: Option<PathBuf>, mut arguments: RunArguments) -> anyhow::Result<Order> {
    arguments.results = results.or(arguments.results);
    anyhow::ensure!(
        arguments.scratch.is_none(),
        "--scratch: a guest has a disk of its own for that"
    );
    order(arguments)
}

fn replay(path: &Path, single: Single) -> anyhow::Result<i32> {
    let (case, variant) = (single.entry.case, single.entry.variant);
    let item = Item { number: 0, case, variant };
    if let Err(error) = item.find() {
        return Ok(usage(&error));
    }
    let order = Order {
        items: vec![item],
        options: single.options,
        seed: single.seed,
        results: path.parent().and_then(Path::parent).unwrap_or(Path::new(".")).join("replay"),
        bound: run::bound(single.time),
        time: single.time,
        ..Order::empty(single.target)
    };
    match single.vm {
        Some(guest) => vm::run(&vm::Options { guest, accel: Accel::Auto }, order),
        None => run::run(order),
    }
}

fn list(group: Option<&str>, variants: bool, json: bool) -> anyhow::Result<i32> {
    if let Some(group) = group
        && let Err(error) = plan::check_group(group)
    {
        return Ok(usage(&error));
    }
    let wanted = plan::cases().iter().filter(|case| group.is_none_or(|group| case.is_in(group)));
    let here = Kernel::running()?;
    let mut all = Vec::new();
    for case in wanted {
        let all_of = (case.variants)();
        let names: Vec<_> = all_of.iter().map(Variant::name).collect();
        let rows: Vec<_> = case.expected.iter().map(|row| describe(row, &all_of, &here)).collect();
        if json {
            all.push(serde_json::json!({
                "id": case.id, "name": case.name, "claim": case.claim, "groups": case.groups,
                "needs": format!("{:?}", case.reach).to_lowercase(),
                "variants": names, "must_fail": rows,
            }));
            continue;
        }
        println!(
            "{:<5} {} ({} variants; {})",
            case.id,
            case.name,
            names.len(),
            case.groups.join(" ")
        );
        println!("      {}", case.claim);
        rows.iter().for_each(|row| println!("      must fail: {row}"));
        if variants {
            names.iter().for_each(|name| println!("        {name}"));
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(0)
}

fn describe(row: &Expected, variants: &[Variant], here: &Kernel) -> String {
    let since = row.since.to_string();
    let since = if row.since == EVER { "the beginning" } else { &since };
    let until = row.until.map_or("now".to_owned(), |until| format!("before {until}"));
    let on = if row.on == "*" { "any target" } else { row.on };
    let of = |variant: &Variant| {
        // The run's options are not known here: those that the row asks for are counted in.
        row.applies(row.on, &variant.name(), row.option, here)
    };
    let now = if variants.iter().any(|variant| of(variant) == Applies::Must) {
        ", this kernel included"
    } else {
        ""
    };
    let option = if row.option.is_empty() { "" } else { &format!(" with -o {}", row.option) };
    let seen: Vec<_> = row.seen.iter().map(Seen::describe).collect();
    let fixed: String = row.fixed_in.iter().map(|fixed| format!(", not {fixed}")).collect();
    let must = match row.must {
        Must::All => String::new(),
        Must::Series(series) => {
            let series: Vec<_> = series.iter().map(|(a, b)| format!("{a}.{b}")).collect();
            format!(
                ", certain on {}",
                if series.is_empty() { "none".to_owned() } else { series.join(" ") }
            )
        }
    };
    format!(
        "{}{option} on {on}: {} from {since} until {until}{fixed}{must}{now} ({})",
        row.variant,
        seen.join(" or "),
        row.reference
    )
}

fn shard(text: &str) -> anyhow::Result<(u64, u64)> {
    let (this, of) = text.split_once('/').context("a shard looks like 2/5")?;
    Ok((this.parse()?, of.parse()?))
}
