//! `inflight-gate`: a gate in front of any FUSE server.

mod front;
mod intercept;
mod launch;
mod mountpoint;
mod options;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use inflight_gate::pages;

/// Exit code of a wrong command line.
const USAGE: u8 = 2;

/// Parks, delays, shortens and fails the requests of a FUSE server that knows nothing of it.
///
/// Mounts on MOUNTPOINT, starts COMMAND with `{}` replaced by /dev/fd/N, which it takes for the mount point,
/// and serves until MOUNTPOINT is unmounted or the server ends. COMMAND stays in the foreground or goes into
/// the background, both will do. It has no terminal to read from.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(
    override_usage = "inflight-gate [--socket S] [-o OPTIONS] MOUNTPOINT -- COMMAND ... {} ...\n       \
                            inflight-gate gate SOCKET park|list|release|fail|log ..."
)]
#[command(
    after_help = "Example: inflight-gate --socket /tmp/g /mnt -- bindfs -f /srv {}\n         \
                        inflight-gate gate /tmp/g park --op read --path /file"
)]
struct Arguments {
    #[command(flatten)]
    front: Option<FrontArgs>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What is put in front of what.
#[derive(Debug, Args)]
struct FrontArgs {
    /// Control socket of the gate (default: a fresh one in the folder of temporary files, which is printed).
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Mount options, comma separated: ro, allow_other, default_permissions, max_read=N, fsname=S, ...
    #[arg(short, long, value_name = "OPTIONS", default_value = "")]
    options: String,
    /// Look at the options and the mount point, and mount nothing.
    #[arg(long)]
    fake: bool,
    /// The server mounts by itself, on MOUNTPOINT, which `{}` stands for then: its mount(2) is caught. For what
    /// does not take /dev/fd/N: servers of libfuse 2, those that call fusermount (in Go), ntfs-3g.
    #[arg(long)]
    intercept: bool,
    /// Most bytes of data in one request, in KiB.
    #[arg(long, value_name = "KIB", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(128..=1024))]
    max_request: u32,
    /// Where to mount.
    #[arg(required = true)]
    mountpoint: PathBuf,
    /// The server and its arguments.
    #[arg(last = true, required = true)]
    server: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The gate by hand: makes rules, shows and releases requests, prints the log.
    Gate(inflight_gate::cli::GateArgs),
    /// Prints a completion script for a shell.
    #[command(hide = true)]
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, or writes those of all commands.
    #[command(hide = true)]
    Manual {
        /// A folder for the pages.
        dir: Option<PathBuf>,
    },
    /// What the proxy starts to start the server.
    #[command(hide = true)]
    Launch(launch::LaunchArgs),
    /// What the proxy starts to clean up after itself.
    #[command(hide = true)]
    Watch {
        /// Where the proxy mounts.
        mountpoint: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ran = match (arguments.command, arguments.front) {
        (Some(Command::Gate(gate)), _) => inflight_gate::cli::run(gate),
        (Some(Command::Completions { shell }), _) => {
            pages::completions(Arguments::command(), shell, &mut std::io::stdout())
                .map_err(anyhow::Error::from)
        }
        (Some(Command::Manual { dir }), _) => {
            pages::manual(Arguments::command(), &mut std::io::stdout(), dir.as_deref())
                .map_err(anyhow::Error::from)
        }
        (Some(Command::Launch(launch)), _) => launch::run(&launch),
        (Some(Command::Watch { mountpoint }), _) => watch::run(&mountpoint),
        (None, Some(front)) => match (front.fake, front::Front::new(front)) {
            (true, Ok(_)) => Ok(()),
            (false, Ok(front)) => front.run(),
            (_, Err(error)) => {
                eprintln!("inflight-gate: {error:#}");
                return ExitCode::from(USAGE);
            }
        },
        (None, None) => unreachable!("clap requires a mount point without a command"),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("inflight-gate: {error:#}");
            ExitCode::FAILURE
        }
    }
}
