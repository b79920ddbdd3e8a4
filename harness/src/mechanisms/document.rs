//! The document: every mechanism, and what was seen of it on which kernel.

use std::fmt::Write;

use super::table::SEEDS;
use super::{Mechanism, Outcome, Show, Shown};

/// Writes it from what was shown on several kernels, oldest first.
pub fn document(shown: &[Shown]) -> String {
    let mut kernels: Vec<&Shown> = shown.iter().collect();
    kernels.sort_by_key(|shown| shown.kernel.version());
    let mut text = String::from(HEAD);
    for shown in &kernels {
        let kernel = &shown.kernel;
        let _ = writeln!(text, "* {}: {} {}", kernel.version(), kernel.release, kernel.build);
    }
    for (number, seed) in SEEDS.iter().enumerate() {
        let _ = writeln!(text, "\n## {number}. {}\n", seed.title);
        let names = kernels.iter().map(|shown| shown.kernel.version().to_string());
        let head = ["", "mechanism", "reached by"].map(str::to_owned);
        line(&mut text, head.into_iter().chain(names));
        let _ = writeln!(text, "|---|---|---|{}", "---|".repeat(kernels.len()));
        for mechanism in &seed.rows {
            row(&mut text, mechanism, &kernels);
        }
    }
    text
}

/// A line of a table. A bar in a cell would end it.
fn line(text: &mut String, cells: impl Iterator<Item = String>) {
    text.push('|');
    for cell in cells {
        let cell = cell.replace('|', "\\|");
        let _ = match &*cell {
            "" => write!(text, " |"),
            cell => write!(text, " {cell} |"),
        };
    }
    text.push('\n');
}

const HEAD: &str = "\
# The mechanisms, one by one

Written by `inflight-race mechanisms --markdown`. Each row is a mechanism of the kernel that the project rests on; `inflight-race
mechanisms ID` shows a row on the running kernel by the case that it names, and is an error when that is not what the case expects
there. A dash means that it cannot be shown there; the reason is printed by the command.

Kernels:

";

fn row(text: &mut String, mechanism: &Mechanism, kernels: &[&Shown]) {
    let what = match &mechanism.show {
        Show::Case { case, .. } => format!("{} (case {case})", mechanism.what),
        _ => mechanism.what.clone(),
    };
    let cells: Vec<String> = match &mechanism.show {
        Show::Nothing { nothing } => {
            let mut cells = vec![String::new(); kernels.len()];
            if let Some(first) = cells.first_mut() {
                *first = format!("not shown: {nothing}");
            }
            cells
        }
        Show::Command { command } => vec![format!("`{command}`"); kernels.len()],
        _ => kernels.iter().map(|shown| cell(mechanism, shown)).collect(),
    };
    let head = [mechanism.id.clone(), what, mechanism.reach.clone()];
    line(text, head.into_iter().chain(cells));
}

fn cell(mechanism: &Mechanism, shown: &Shown) -> String {
    let row = shown.rows.iter().find(|row| row.id == mechanism.id);
    match row.map(|row| &row.outcome) {
        Some(Outcome::Seen(seen)) => seen.word.clone(),
        Some(Outcome::Differs { seen, expected }) => {
            format!("**{}** (expected {expected})", seen.word)
        }
        Some(Outcome::Failed(_)) => "**failed**".to_owned(),
        Some(Outcome::Not(_)) | None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::kernel::Kernel;
    use crate::kit::seen::Seen;
    use crate::mechanisms::{Row, all};

    #[test]
    fn kernels_are_columns_and_what_differs_stands_out() {
        let shown = |release: &str, outcome| Shown {
            kernel: Kernel::of(release),
            rows: vec![Row { id: "0.1".to_owned(), outcome }],
        };
        let young = shown("6.18.1", Outcome::Seen(Seen::new("gone", "")));
        let expected = "there".to_owned();
        let old = shown("6.1.9", Outcome::Differs { seen: Seen::new("gone", ""), expected });
        let text = document(&[young, old]);
        let line = text.lines().find(|line| line.starts_with("| 0.1 ")).unwrap();
        assert!(line.ends_with("| **gone** (expected there) | gone |"), "{line}");
        let head = text.lines().find(|line| line.starts_with("| | mechanism")).unwrap();
        assert!(head.ends_with("| 6.1.9 | 6.18.1 |"), "{head}");
    }

    /// Cells of a line, an escaped bar being part of one.
    fn cells(line: &str) -> usize {
        line.replace("\\|", "").matches('|').count() - 1
    }

    #[test]
    fn every_line_of_a_table_has_as_many_cells_as_its_head() {
        let outcome = || Outcome::Seen(Seen::new("FOLL_PIN|FOLL_LONGTERM", ""));
        let rows = || all().map(|one| Row { id: one.id.clone(), outcome: outcome() });
        let shown = ["6.1.9", "6.18.1"]
            .map(|release| Shown { kernel: Kernel::of(release), rows: rows().collect() });
        let made = document(&shown);
        assert!(made.contains("FOLL_PIN\\|FOLL_LONGTERM, which"), "{made}");
        let kept = include_str!("../../MECHANISMS.md");
        for text in [&*made, kept] {
            let lines: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
            assert!(lines.len() > all().count());
            for line in &lines {
                assert_eq!(cells(line), cells(lines[0]), "{line}");
            }
        }
    }
}
