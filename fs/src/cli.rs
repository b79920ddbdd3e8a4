//! The command line: one file a command.

mod completions;
pub mod dump;
pub mod fsck;
pub mod helper;
mod log;
pub mod mkfs;
pub mod mount;
pub mod stat;
pub mod umount;

use crate::gate::cli as gate;
use clap::{CommandFactory as _, Parser, Subcommand};
use std::process::ExitCode;

/// A FUSE filesystem in one image file.
#[derive(Debug, Parser)]
#[command(name = "inflight", version, propagate_version = true)]
pub struct Cli {
    /// More messages; RUST_LOG says which.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an empty filesystem in a file or on a block device.
    Mkfs(mkfs::MkfsArgs),
    /// Mount an image.
    Mount(mount::MountArgs),
    /// Unmount, and return when the image is clean and unlocked.
    Umount(umount::UmountArgs),
    /// Check an image, and repair it.
    Fsck(fsck::FsckArgs),
    /// Show what an image holds: superblock, inode, extents.
    Dump(dump::DumpArgs),
    /// Show what a mount is doing.
    Stat(stat::StatArgs),
    /// Park and release requests of a mount made with --gate.
    Gate(gate::GateArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
    /// Print the manual page.
    #[command(hide = true)]
    Manual,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&name).file_name().unwrap_or_default();
    if name == "mount.fuse.inflight" || name == "mount.inflight" {
        return report(helper::run(std::env::args_os().skip(1).collect()));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { usage_code() } else { 0 });
        }
    };
    log::init(cli.verbose);
    report(match cli.command {
        Command::Mkfs(args) => mkfs::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Mount(args) => mount::run(&args, cli.verbose).map(|()| ExitCode::SUCCESS),
        Command::Umount(args) => umount::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Fsck(args) => fsck::run(&args),
        Command::Dump(args) => dump::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Stat(args) => stat::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Gate(args) => gate::run(args).map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => completions::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Manual => completions::manual(Cli::command()).map(|()| ExitCode::SUCCESS),
    })
}

/// fsck(8) has its own code for a wrong command line.
fn usage_code() -> u8 {
    if std::env::args_os().nth(1).is_some_and(|a| a == "fsck") { 16 } else { 2 }
}

fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|e| {
        eprintln!("inflight: {}", one_line(&e));
        ExitCode::FAILURE
    })
}

/// The error and its causes, without those that an earlier one quotes already.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    line
}
