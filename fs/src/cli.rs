//! The command line: one file a command.

/// In place of the standard one, which panics when nobody reads.
macro_rules! println {
    ($($arg:tt)*) => { $crate::cli::output::print_line(format_args!($($arg)*)) };
}
/// In place of the standard one, which panics when nobody reads.
macro_rules! eprintln {
    ($($arg:tt)*) => { $crate::cli::output::complain(format_args!($($arg)*)) };
}

mod completions;
pub mod dump;
pub mod export;
pub mod fsck;
pub mod helper;
mod import;
pub mod label;
pub mod list;
mod log;
pub mod mkfs;
pub mod mount;
mod output;
pub mod resize;
pub mod stat;
pub mod top;
pub mod umount;
pub mod undertaker;
mod waiting;

use clap::{Parser, Subcommand};
use inflight_gate::{cli as gate, fault};
use std::process::ExitCode;

/// A FUSE filesystem in one image file.
#[derive(Debug, Parser)]
#[command(name = "inflight", version, propagate_version = true)]
pub struct Cli {
    /// More messages; RUST_LOG says which.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Fail at once when somebody else uses the image, instead of waiting until they are done.
    #[arg(long, global = true)]
    no_wait: bool,
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
    /// Watch a mount: requests in flight, rates, latencies, processes.
    Top(top::TopArgs),
    /// Copy what an image holds into a directory, without a mount.
    Export(export::ExportArgs),
    /// Make a filesystem larger, mounted or not, or smaller.
    Resize(resize::ResizeArgs),
    /// Show the name of a filesystem, or change it.
    Label(label::LabelArgs),
    /// Show images: label, UUID, size, state, and who has them.
    List(list::ListArgs),
    /// Park and release requests of a mount made with --gate.
    Gate(gate::GateArgs),
    /// Make requests of a mount made with --gate fail, wait or get lost; cut its power.
    Fault(fault::FaultArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
    /// Unmount what a server leaves behind.
    #[command(hide = true)]
    Undertake(undertaker::UndertakeArgs),
    /// Print the manual page, or write those of all commands.
    #[command(hide = true)]
    Manual(completions::ManualArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&name).file_name().unwrap_or_default();
    let mut args: Vec<_> = std::env::args_os().collect();
    match name.to_str().and_then(|name| name.strip_suffix(".inflight")) {
        Some("mount.fuse" | "mount") => {
            waiting::set(true);
            return report(helper::run(args.split_off(1)), helper::MOUNT_FAILED);
        }
        Some("mkfs.fuse" | "mkfs") => {
            args.splice(..1, ["inflight", "mkfs"].map(Into::into)).for_each(drop)
        }
        Some("fsck.fuse" | "fsck") => args = helper::fsck(args.split_off(1)),
        _ => {}
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { usage_code() } else { 0 });
        }
    };
    // A server in the background writes to a log later.
    let stays = !matches!(&cli.command, Command::Mount(args) if args.is_in_background());
    log::init(cli.verbose, stays);
    waiting::set(!cli.no_wait);
    let result = match cli.command {
        Command::Mkfs(args) => mkfs::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Mount(args) => {
            mount::run(&args, cli.verbose, cli.no_wait).map(|()| ExitCode::SUCCESS)
        }
        Command::Umount(args) => umount::run(&args, cli.no_wait).map(|()| ExitCode::SUCCESS),
        Command::Fsck(args) => fsck::run(&args),
        Command::Dump(args) => dump::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Stat(args) => stat::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Top(args) => top::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Export(args) => export::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Resize(args) => resize::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Label(args) => label::run(&args).map(|()| ExitCode::SUCCESS),
        Command::List(args) => list::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Gate(args) => gate::run(args).map(|()| ExitCode::SUCCESS),
        Command::Fault(args) => fault::run(args).map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => completions::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Undertake(args) => undertaker::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Manual(args) => completions::manual(&args).map(|()| ExitCode::SUCCESS),
    };
    report(result, 1)
}

/// fsck(8) has its own code for a wrong command line.
fn usage_code() -> u8 {
    let mut words = std::env::args_os().take(2);
    let fsck = |word: std::ffi::OsString| {
        let path = std::path::Path::new(&word);
        path.file_name().is_some_and(|name| name == "fsck" || name == "fsck.fuse.inflight")
    };
    if words.any(fsck) { 16 } else { 2 }
}

fn report(result: anyhow::Result<ExitCode>, failure: u8) -> ExitCode {
    let unread = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    match result {
        Ok(code) => code,
        // Whoever read standard output has seen enough.
        Err(e) if e.downcast_ref().is_some_and(unread) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("inflight: {}", one_line(&e));
            ExitCode::from(failure)
        }
    }
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
