//! `inflight fsck`.

use crate::fsck::{self, Findings, Options, Outcome, Report, Severity};
use clap::Args;
use indicatif::ProgressBar;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Findings printed; the others are counted, and `--json` has more of them.
const PRINTED_MAX: usize = 50;
/// fsck(8): operational error.
const OPERATIONAL: u8 = 8;

/// What to check.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 clean, 1 errors corrected, 4 errors left, 8 the image \
                        cannot be checked, 16 usage.")]
pub struct FsckArgs {
    /// Repair what can be repaired; without it the image is not written.
    #[arg(long)]
    repair: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// File or block device. Of one that is mounted, the last commit is checked.
    image: PathBuf,
}

pub(super) fn run(args: &FsckArgs) -> anyhow::Result<ExitCode> {
    // Draws on a terminal only.
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    let progress = |stage| bar.set_message(stage);
    let result = fsck::check(&args.image, &Options { repair: args.repair, progress: &progress });
    bar.finish_and_clear();
    let report = match result {
        Ok(report) => report,
        Err(e) => {
            eprintln!("inflight: {e}");
            return Ok(ExitCode::from(OPERATIONAL));
        }
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::from(report.outcome.exit_code()))
}

fn print(report: &Report) {
    list(&report.found, report.is_modified());
    if let Some(left) = report.left.as_ref().filter(|left| left.total() > 0) {
        println!("after the repair:");
        list(left, false);
    }
    let errors = report.remaining().errors;
    let (verdict, hint) = match report.outcome {
        Outcome::Clean => ("clean".to_owned(), ""),
        Outcome::Corrected => (format!("{} errors corrected", report.found.errors), ""),
        Outcome::Uncorrected if report.is_modified() => (format!("{errors} errors left"), ""),
        Outcome::Uncorrected if report.found.list.iter().any(|f| f.remedy.is_empty()) => {
            (format!("{errors} errors, not all can be repaired"), "")
        }
        Outcome::Uncorrected if report.mounted_on.is_some() => {
            (format!("{errors} errors"), "; unmount it, and repair them with --repair")
        }
        Outcome::Uncorrected => (format!("{errors} errors"), "; repair them with --repair"),
    };
    let verdict = match &report.mounted_on {
        Some(dir) => format!("mounted on {dir}, its last commit: {verdict}"),
        None => verdict,
    };
    println!(
        "{}: {verdict}, {} inodes, {} of {} blocks used{hint}",
        report.image.display(),
        report.inodes,
        report.blocks_used,
        report.blocks_total
    );
}

fn list(findings: &Findings, repaired: bool) {
    for finding in findings.list.iter().take(PRINTED_MAX) {
        let severity = if finding.severity == Severity::Note { "note: " } else { "" };
        let remedy = match (&finding.remedy[..], repaired) {
            ("", _) => String::new(),
            (remedy, true) => format!(" [repaired: {remedy}]"),
            (remedy, false) => format!(" [repair: {remedy}]"),
        };
        println!("{severity}{finding}{remedy}");
    }
    let rest = findings.total() - findings.list.len().min(PRINTED_MAX) as u64;
    if rest > 0 {
        println!("and {rest} more");
    }
}
