//! The command line of `inflight-race`.

pub mod compare;
pub mod demo;
pub mod guest;
pub mod kernels;
pub mod list;
pub mod mechanisms;
pub mod mutants;
pub mod run;

use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser, Subcommand};
use inflight_gate::pages::{self, Shell};

use self::guest::{in_guest, kernel_orders, selection};
use self::list::list;
use self::run::{RunArguments, order};
use crate::fixture::raw_server;
use crate::matrix;
use crate::probe;
use crate::report;
use crate::run::plan::Item;
use crate::run::results::{self, Single};
use crate::run::worker;
use crate::run::{self as runner, Order};
use crate::target::Target;
use crate::target::session;
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

/// Runs the command; gives its exit code.
///
/// # Errors
/// What went wrong before a verdict was possible.
pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    match arguments.command {
        Command::List { matrix: true, json, .. } => matrix::list::print(json).map(|()| 0),
        Command::List { group, variants, json, .. } => list(group.as_deref(), variants, json),
        Command::Run(arguments) => match order(*arguments) {
            Ok(order) => runner::run(order),
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
                Job::Run(order) => runner::run(*order),
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
        bound: runner::bound(single.time),
        time: single.time,
        ..Order::empty(single.target)
    };
    match single.vm {
        Some(guest) => vm::run(&vm::Options { guest, accel: Accel::Auto }, order),
        None => runner::run(order),
    }
}
