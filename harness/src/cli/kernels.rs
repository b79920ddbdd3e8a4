//! The same cases on every kernel there is, as one table: what was seen against what was expected.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::kit::kernel::Kernel;
use crate::kit::verdict::{Class, Verdict, exit_code};
use crate::run::guest::Guest;
use crate::run::plan::{self, Item};
use crate::run::results::{self, Entry, RUN_FILE, Run};
use crate::run::{self, INTERRUPTED, Order};
use crate::vm::{self, machine::Accel, source};

/// What to run, and where the table goes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Only these kernels, as `vm --kernel` takes them, or `host`; may be repeated (default: the host's own and all
    /// in the cache of scripts/kernels).
    #[arg(long, value_name = "SPEC")]
    pub kernel: Vec<String>,
    /// Folder for the results, one below it for each kernel and target.
    #[arg(long, default_value = "race-results/kernels")]
    pub results: PathBuf,
    /// Do not run again what has results there already.
    #[arg(long)]
    pub keep: bool,
    /// How the guests' code is executed.
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: Accel,
    /// Also write the table as Markdown.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "harness/KERNELS.md")]
    pub markdown: Option<PathBuf>,
}

/// Runs each order (one a target) on each kernel, and prints the table; gives the exit code of all runs together. The
/// document says which command line it comes from.
///
/// # Errors
/// A run could not be started, or results cannot be read or written.
pub fn run(options: &Options, orders: &[Order], command: &str) -> anyhow::Result<i32> {
    let kernels = match &*options.kernel {
        [] => ["host".to_owned()].into_iter().chain(source::all()).collect(),
        named => named.to_vec(),
    };
    let (mut runs, mut lacks) = (Vec::new(), Vec::new());
    for kernel in &kernels {
        for order in orders {
            let name = format!("{}-{}", kernel.replace([':', '/'], "_"), order.target.name());
            let results = options.results.join(name);
            let kept = if options.keep { kept(&results, order)? } else { None };
            let run = match kept {
                Some(run) => run,
                None => match one(options, kernel, Order { results, ..order.clone() })? {
                    Ok(run) => run,
                    Err(INTERRUPTED) => return Ok(INTERRUPTED),
                    // It has said why.
                    Err(_) => {
                        lacks.push(format!("{kernel} ({})", order.target.name()));
                        continue;
                    }
                },
            };
            runs.push(judged_anew(run));
        }
    }
    let table = Table::of(&runs);
    print!("{}", table.text());
    if !lacks.is_empty() {
        println!("not run on {}", lacks.join(", "));
    }
    if let Some(path) = &options.markdown {
        std::fs::write(path, table.markdown(command))
            .with_context(|| path.display().to_string())?;
    }
    Ok(exit_code(runs.iter().flat_map(|run| &run.variants).map(|entry| &entry.verdict)))
}

/// The results of an earlier, whole run of this order, if they are there.
fn kept(results: &Path, order: &Order) -> anyhow::Result<Option<Run>> {
    if !results.join(RUN_FILE).is_file() {
        return Ok(None);
    }
    let run = results::read_run(results)?;
    Ok(is_whole(&run, order).then_some(run))
}

fn is_whole(run: &Run, order: &Order) -> bool {
    let played = run.variants.iter().map(|entry| (&entry.case, &entry.variant));
    let wanted = order.items.iter().map(|item| (&item.case, &item.variant));
    run.options == order.options && played.eq(wanted)
}

/// Kept results may be older than the table of expected failures: what was seen is held against it again.
fn judged_anew(mut run: Run) -> Run {
    let table = run::table::Table::default();
    for entry in &mut run.variants {
        let (number, case, variant) = (0, entry.case.clone(), entry.variant.clone());
        if let Ok((case, variant)) = (Item { number, case, variant }).find() {
            let (target, options, kernel) = (&run.target, &run.options, &run.kernel);
            let rows = table.rows(case, &variant, target, options, kernel);
            entry.verdict = run::table::verdict(case, target, &rows, &entry.played);
        }
    }
    run
}

/// Plays an order on a kernel; gives the exit code where that brought no results.
fn one(options: &Options, kernel: &str, order: Order) -> anyhow::Result<Result<Run, i32>> {
    let results = order.results.clone();
    let file = results.join(RUN_FILE);
    if file.is_file() {
        std::fs::remove_file(&file).with_context(|| file.display().to_string())?;
    }
    let code = if kernel == "host" {
        run::run(order)?
    } else {
        vm::run(&vm::Options { guest: Guest::of(kernel), accel: options.accel }, order)?
    };
    if code == INTERRUPTED || !file.is_file() {
        return Ok(Err(code));
    }
    results::read_run(&results).map(Ok)
}

/// Cells by row (target and case) and kernel.
#[derive(Debug, Default)]
struct Table {
    kernels: Vec<String>,
    rows: BTreeMap<(usize, usize), Row>,
}

#[derive(Debug, Default)]
struct Row {
    target: String,
    case: String,
    cells: BTreeMap<usize, Cell>,
    /// What is known of its failures, and in which columns it was met.
    reasons: BTreeMap<String, BTreeSet<usize>>,
}

/// The variants of a case on a kernel.
#[derive(Clone, Debug, Default)]
struct Cell {
    played: usize,
    failed: usize,
    classes: Vec<Class>,
    /// Words of the verdicts that somebody has to look at.
    odd: Vec<&'static str>,
}

impl Table {
    fn of(runs: &[Run]) -> Table {
        let mut table = Table::default();
        let mut targets: Vec<String> = Vec::new();
        for run in runs {
            let column = place(&mut table.kernels, title(&run.kernel));
            let line = place(&mut targets, run.target.name());
            for entry in &run.variants {
                let case = plan::cases().iter().position(|case| case.id == entry.case);
                let row = table.rows.entry((line, case.unwrap_or(usize::MAX))).or_default();
                row.target = run.target.name();
                row.case = format!("{} {}", entry.case, entry.name);
                row.cells.entry(column).or_default().add(entry);
                if let Verdict::Xfail { reference, .. } = &entry.verdict {
                    row.reasons.entry(reference.clone()).or_default().insert(column);
                }
            }
        }
        table.rows.retain(|_, row| row.cells.values().any(|cell| cell.text() != "-"));
        table
    }

    fn grid(&self) -> Vec<Vec<String>> {
        let head = ["target", "case"].map(str::to_owned).into_iter();
        let mut lines = vec![head.chain(self.kernels.iter().cloned()).collect::<Vec<_>>()];
        for row in self.rows.values() {
            let cell = |column| row.cells.get(&column).map_or("-".to_owned(), Cell::text);
            let cells = (0..self.kernels.len()).map(cell);
            lines.push([row.target.clone(), row.case.clone()].into_iter().chain(cells).collect());
        }
        lines
    }

    fn text(&self) -> String {
        let grid = self.grid();
        let width = |column: usize| grid.iter().map(|line| line[column].chars().count()).max();
        let mut text = String::new();
        for line in &grid {
            for (column, cell) in line.iter().enumerate() {
                let width = width(column).unwrap_or(0);
                let _ = write!(text, "{cell:<width$}  ");
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// With the command that it comes from.
    fn markdown(&self, command: &str) -> String {
        let mut text = HEAD.replace("COMMAND", command);
        for (number, line) in self.grid().iter().enumerate() {
            let cells: Vec<_> = line.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if number == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(line.len()));
            }
        }
        text + &self.reasons()
    }

    /// The references of all expected failures that were seen.
    fn reasons(&self) -> String {
        let mut text = String::new();
        for row in self.rows.values() {
            for (reason, columns) in &row.reasons {
                let kernels: Vec<_> =
                    columns.iter().map(|&column| &*self.kernels[column]).collect();
                let name = row.case.split(' ').next().unwrap_or(&row.case);
                let (target, kernels) = (&row.target, kernels.join(", "));
                let _ = writeln!(text, "* {name} on {target}: {reason} (met on {kernels})");
            }
        }
        if text.is_empty() { text } else { format!("\n## Why they fail\n\n{text}") }
    }
}

const HEAD: &str = "# Cases by kernel

Written by `inflight-race COMMAND`; `scripts/kernels` fetches the kernels. A
cell holds what was seen: `ok` when every variant that can be played passed, otherwise the kinds of harm and, where
not all variants failed, how many of how many. All of it is what the table of expected failures beside each case says
of that kernel, except where a cell says otherwise in **bold**. `-`: cannot be played there. Kernels with a package
version are Debian's, of the flavour `cloud-amd64` unless the column says another, and run in QEMU; one without is what the
command itself ran on.

Below the table is why they fail. A stable kernel may have a fix that is younger than its number: `inflight-race list`
says which.

";

fn place(all: &mut Vec<String>, one: String) -> usize {
    all.iter().position(|other| *other == one).unwrap_or_else(|| {
        all.push(one);
        all.len() - 1
    })
}

/// The exact package version, with the flavour where it is not the one that scripts/kernels takes unless told; or
/// the release without what a builder has added to it.
fn title(kernel: &Kernel) -> String {
    match (kernel.package(), kernel.flavour()) {
        (None, _) => kernel.version().to_string(),
        (Some(package), flavour) if flavour.starts_with("cloud") => package.to_owned(),
        (Some(package), flavour) => format!("{package} {flavour}"),
    }
}

impl Cell {
    fn add(&mut self, entry: &Entry) {
        if entry.verdict.is_unexpected() {
            self.odd.push(entry.verdict.word());
        }
        let classes: &[Class] = match &entry.verdict {
            // Nothing was seen.
            Verdict::Notrun { .. }
            | Verdict::Serialised { .. }
            | Verdict::Broken { .. }
            | Verdict::Noproof { .. } => return,
            Verdict::Fail { classes } | Verdict::Xfail { classes, .. } => classes,
            Verdict::Pass | Verdict::Xpass { .. } => &[],
        };
        self.played += 1;
        self.failed += usize::from(!classes.is_empty());
        self.classes.extend(classes);
        self.classes.sort();
        self.classes.dedup();
    }

    fn text(&self) -> String {
        let names: Vec<_> = self.classes.iter().map(|class| class.name()).collect();
        let (played, failed) = (self.played, self.failed);
        let seen = match (played, failed) {
            (0, _) => "-".to_owned(),
            (_, 0) => "ok".to_owned(),
            _ if played == failed => names.join("+"),
            _ => format!("{} {failed}/{played}", names.join("+")),
        };
        let mut odd = self.odd.clone();
        odd.sort_unstable();
        odd.dedup();
        if odd.is_empty() { seen } else { format!("{seen} **{}**", odd.join(" ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::verdict::Fault;
    use crate::run::worker::Played;
    use crate::target::Target;

    fn entry(variant: &str, verdict: Verdict) -> Entry {
        let text = |text: &str| text.to_owned();
        let (case, name, claim) = (text("FK1"), text("fork-touch"), String::new());
        let (repro, played) = (String::new(), Played::default());
        Entry { case, name, claim, variant: variant.to_owned(), verdict, repro, played }
    }

    fn run(build: &str, variants: Vec<Entry>) -> Run {
        let (release, machine) = ("6.1.0-56-cloud-amd64".to_owned(), String::new());
        let kernel = Kernel { release, build: build.to_owned(), machine };
        Run { variants, ..Run::new(&Order::empty(Target::Inflight), kernel) }
    }

    #[test]
    fn kept_results_are_held_against_the_table_as_it_is() {
        let mut lost = entry("store/uring/anon", Verdict::Pass);
        let text = "parent: byte 0: 512 of 512 bytes are poison (never written); legal: file 7";
        lost.played.faults.push(Fault { class: Class::Lost, text: text.to_owned() });
        let old = judged_anew(run("#1 SMP Debian 6.1.192-2 (x)", vec![lost.clone()]));
        let new = judged_anew(run("#1 SMP Debian 7.2.13-1 (x)", vec![lost]));
        assert_eq!(old.variants[0].verdict.word(), "XFAIL");
        assert_eq!(new.variants[0].verdict.word(), "FAIL");
    }

    #[test]
    fn only_a_whole_run_of_the_same_order_is_kept() {
        let item = |variant: &str| {
            let (case, variant) = ("FK1".to_owned(), variant.to_owned());
            Item { number: 0, case, variant }
        };
        let whole = run("", vec![entry("a", Verdict::Pass), entry("b", Verdict::Pass)]);
        let items = vec![item("a"), item("b")];
        let order = Order { items, ..Order::empty(Target::Inflight) };
        assert!(is_whole(&whole, &order));
        let other = Order { options: "read=copy".to_owned(), ..order.clone() };
        assert!(!is_whole(&whole, &other));
        assert!(!is_whole(&run("", vec![entry("a", Verdict::Pass)]), &order));
        assert!(!is_whole(&run("", Vec::new()), &order));
    }

    #[test]
    fn kernels_of_one_version_and_two_flavours_have_a_column_each() {
        let build = "#1 SMP Debian 6.1.192-2 (x)";
        let mut other = run(build, vec![entry("a", Verdict::Pass)]);
        other.kernel.release = "6.1.0-56-amd64".to_owned();
        let table = Table::of(&[run(build, vec![entry("a", Verdict::Pass)]), other]);
        assert_eq!(table.kernels, ["6.1.192-2", "6.1.192-2 amd64"]);
    }

    #[test]
    fn what_could_not_be_played_is_not_ok() {
        let reason = || "x".to_owned();
        let broken = Verdict::Broken { reason: reason() };
        let cell = |verdicts: Vec<Verdict>| {
            let entries = verdicts.into_iter().map(|verdict| entry("a", verdict)).collect();
            Table::of(&[run("#1", entries)]).grid()[1][2].clone()
        };
        assert_eq!(cell(vec![broken.clone()]), "- **BROKEN**");
        assert_eq!(cell(vec![Verdict::Noproof { reason: reason() }]), "- **NOPROOF**");
        assert_eq!(cell(vec![Verdict::Pass, broken]), "ok **BROKEN**");
    }

    #[test]
    fn a_cell_says_what_was_seen_and_what_was_not_expected() {
        let reference = || "somewhere".to_owned();
        let lost = Verdict::Xfail { classes: vec![Class::Lost], reference: reference() };
        let old = vec![
            entry("a", lost.clone()),
            entry("b", Verdict::Pass),
            entry("c", Verdict::Notrun { reason: reference() }),
        ];
        let new = vec![entry("a", Verdict::Xpass { reference: reference() })];
        let runs = [run("#1 SMP Debian 6.1.192-2 (x)", old), run("#1 SMP", new)];
        let table = Table::of(&runs);
        let wanted = vec![
            vec!["target", "case", "6.1.192-2", "6.1.0"],
            vec!["inflight", "FK1 fork-touch", "LOST 1/2", "ok **XPASS**"],
        ];
        assert_eq!(table.grid(), wanted);
        assert!(
            table.text().lines().all(|line| line.starts_with("target") || line.contains("LOST"))
        );
        assert!(
            table.markdown("x").contains("| inflight | FK1 fork-touch | LOST 1/2 | ok **XPASS** |")
        );
        assert!(table.markdown("x -y").contains("Written by `inflight-race x -y`;"));
        assert!(table.markdown("x").ends_with(
            "\n\n## Why they fail\n\n* FK1 on inflight: somewhere (met on 6.1.192-2)\n"
        ));
        let all = Table::of(&[run("#1 SMP", vec![entry("a", lost)])]);
        assert_eq!(all.grid()[1][2], "LOST");
    }
}
