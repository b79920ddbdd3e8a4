//! The command `mechanisms`: what is asked for, on which kernels, and its exit code.

use std::path::PathBuf;

use anyhow::Context;

use super::USAGE;
use crate::kit::verdict::{Verdict, exit_code, reason_not_run};
use crate::mechanisms::{
    Mechanism, Outcome, Show, Shown, all as mechanisms, check, document, named, show,
};
use crate::run::guest::Guest;
use crate::vm::machine::Accel;
use crate::vm::{self, source};

/// What the command line asks for.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these: `3.2`, or `3` for all of a seed.
    ids: Vec<String>,
    /// Only the list: what each is, how it is reached, which command shows it.
    #[arg(long, conflicts_with_all = ["json", "kernel", "kernels", "accel", "markdown"])]
    list: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// On these kernels, as `vm --kernel` takes them, or `host`; may be repeated (default: the host's own).
    #[arg(long, value_name = "SPEC")]
    kernel: Vec<String>,
    /// On the host's own kernel and on every one in the cache of scripts/kernels.
    #[arg(long, conflicts_with = "kernel")]
    kernels: bool,
    /// How guests' code is executed.
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accel,
    /// Also write the document: every mechanism by kernel, so not of some only.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "harness/MECHANISMS.md")]
    #[arg(conflicts_with = "ids")]
    markdown: Option<PathBuf>,
}

impl Arguments {
    fn kernels(&self) -> Vec<String> {
        let host = || "host".to_owned();
        match &*self.kernel {
            [] if self.kernels => [host()].into_iter().chain(source::all()).collect(),
            [] => vec![host()],
            named => named.to_vec(),
        }
    }
}

/// Runs the command; gives its exit code, as of a run: 1 when something differs from the table, 3 when an
/// observation failed or a guest was lost, 4 when nothing could be shown.
///
/// # Errors
/// The document cannot be written.
pub fn run(arguments: &Arguments) -> anyhow::Result<i32> {
    // Before any machine is booted for them.
    if let Err(error) = check(&arguments.ids) {
        eprintln!("inflight-race: {error:#}");
        return Ok(USAGE);
    }
    if arguments.list {
        named(&arguments.ids).for_each(describe);
        return Ok(0);
    }
    let (mut all, mut ends) = (Vec::new(), Vec::new());
    for kernel in &arguments.kernels() {
        let said = |mechanism: &Mechanism, outcome: &Outcome| {
            if !arguments.json {
                print(mechanism, outcome);
            }
        };
        match on(kernel, arguments, said) {
            Ok(shown) => all.push(shown),
            // The others are shown all the same.
            Err(error) => {
                eprintln!("inflight-race: {kernel}: {error:#}");
                ends.push(end(&error));
            }
        }
        if let Some(path) = arguments.markdown.as_ref().filter(|_| !all.is_empty()) {
            std::fs::write(path, document(&all)).with_context(|| path.display().to_string())?;
        }
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&all)?);
    }
    Ok(code(&all, ends))
}

/// What a kernel that showed nothing came to.
fn end(error: &anyhow::Error) -> Verdict {
    let reason = format!("{error:#}");
    match reason_not_run(error) {
        Some(_) => Verdict::Notrun { reason },
        None => Verdict::Broken { reason },
    }
}

/// The exit code of everything that was shown, and of the kernels that showed nothing.
fn code(all: &[Shown], ends: Vec<Verdict>) -> i32 {
    let rows = all.iter().flat_map(|shown| &shown.rows);
    let verdicts: Vec<_> = rows.map(|row| row.outcome.verdict()).chain(ends).collect();
    exit_code(&verdicts)
}

fn describe(mechanism: &Mechanism) {
    println!("{:<5} {}", mechanism.id, mechanism.what);
    println!("      reached by {}", mechanism.reach);
    match &mechanism.show {
        Show::Nothing { nothing } => println!("      not shown: {nothing}"),
        _ => println!("      shown by {}", mechanism.command()),
    }
}

/// Shows what was asked for on one kernel.
fn on(
    kernel: &str,
    arguments: &Arguments,
    mut said: impl FnMut(&Mechanism, &Outcome),
) -> anyhow::Result<Shown> {
    if kernel == "host" {
        return show(&arguments.ids, said);
    }
    let options = vm::Options { guest: Guest::of(kernel), accel: arguments.accel };
    let shown = vm::mechanisms(&options, &arguments.ids)?;
    if !arguments.json {
        println!("{} {}", shown.kernel.release, shown.kernel.build);
    }
    for row in &shown.rows {
        let mechanism = mechanisms().find(|mechanism| mechanism.id == row.id);
        said(mechanism.context("a mechanism that the guest does not know")?, &row.outcome);
    }
    Ok(shown)
}

fn print(mechanism: &Mechanism, outcome: &Outcome) {
    let text = match outcome {
        Outcome::Seen(seen) => seen.to_string(),
        Outcome::Differs { seen, expected } => format!("DIFFERS: {seen}; expected {expected}"),
        Outcome::Not(reason) => format!("- {reason}"),
        Outcome::Failed(reason) => format!("FAILED: {reason}"),
    };
    println!("{:<5} {:<64} {text}", mechanism.id, mechanism.what);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::kernel::Kernel;
    use crate::kit::seen::Seen;
    use crate::kit::verdict::not_run;
    use crate::mechanisms::Row;

    #[test]
    fn a_kernel_that_showed_nothing_counts() {
        let kernel = Kernel::of("6.18.1");
        let shown = |outcome| {
            let rows = vec![Row { id: "0.1".to_owned(), outcome }];
            [Shown { kernel: kernel.clone(), rows }]
        };
        let seen = || Seen::new("gone", "");
        let differs = || Outcome::Differs { seen: seen(), expected: String::new() };
        let lost = || vec![end(&anyhow::anyhow!("the guest panicked"))];
        let none = || vec![end(&not_run("qemu-system-x86_64 is not installed"))];
        assert_eq!(code(&shown(Outcome::Seen(seen())), vec![]), 0);
        assert_eq!(code(&shown(Outcome::Seen(seen())), none()), 0);
        assert_eq!(code(&shown(Outcome::Seen(seen())), lost()), 3);
        assert_eq!(code(&shown(Outcome::Failed(String::new())), none()), 3);
        assert_eq!(code(&shown(differs()), lost()), 1);
        assert_eq!(code(&shown(Outcome::Not(String::new())), none()), 4);
        assert_eq!(code(&[], none()), 4);
        assert_eq!(code(&[], lost()), 3);
    }
}
