//! The matrix: cases down, runs across, in each field one square a variant.

use std::fmt::Write;

use super::subject::{Subject, run_name};
use super::{escape, html};
use crate::run::results::Run;

/// Draws it.
pub fn draw(out: &mut String, runs: &[Run], subjects: &[Subject<'_>]) {
    let _ = write!(
        out,
        "<table class=\"matrix\" style=\"--columns:{}\">\n<thead><tr><th scope=\"col\">case</th>",
        runs.len()
    );
    let kernel = the_kernel(runs).is_none();
    for run in runs {
        head(out, run, kernel);
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for (case, name) in cases(subjects) {
        let _ = write!(
            out,
            "<tr class=\"case\"><th scope=\"row\"><button type=\"button\" aria-expanded=\"false\" \
             title=\"show the names of its variants\"><b>{}</b> <span>{}</span></button></th>",
            escape(case),
            escape(name)
        );
        for (number, run) in runs.iter().enumerate() {
            out.push_str("<td><div>");
            let here =
                |subject: &&Subject<'_>| subject.run == number && subject.entry().case == case;
            for subject in subjects.iter().filter(here) {
                square(out, run, subject);
            }
            out.push_str("</div></td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n");
}

/// The kernel of all runs, if they have one in common.
pub fn the_kernel(runs: &[Run]) -> Option<&str> {
    let first = &runs.first()?.kernel.release;
    runs.iter().all(|run| run.kernel.release == *first).then_some(first)
}

fn head(out: &mut String, run: &Run, kernel: bool) {
    let name = escape(&run_name(run));
    let about = format!("{} {}\nseed {}", run.kernel.release, run.kernel.build, run.seed);
    let _ = write!(out, "<th scope=\"col\" title=\"{}\">{name}", escape(&about));
    if kernel {
        let _ = write!(out, "<small>{}</small>", escape(&run.kernel.release));
    }
    out.push_str("</th>");
}

/// Short and long names, in the order in which they were first played.
fn cases<'a>(subjects: &[Subject<'a>]) -> Vec<(&'a str, &'a str)> {
    let mut cases: Vec<(&str, &str)> = Vec::new();
    for entry in subjects.iter().map(Subject::entry) {
        if !cases.iter().any(|(case, _)| *case == entry.case) {
            cases.push((&entry.case, &entry.name));
        }
    }
    cases
}

fn square(out: &mut String, run: &Run, subject: &Subject<'_>) {
    let entry = subject.entry();
    let (word, detail) = (entry.verdict.word(), entry.verdict.detail());
    let name = run_name(run);
    let label = format!("{} {} on {name}: {word}", entry.case, entry.variant);
    let text = format!("{} {} {word} {detail} {name} {}", entry.case, entry.variant, entry.name);
    let title = if detail.is_empty() { label.clone() } else { format!("{label}\n{detail}") };
    let _ = write!(
        out,
        "<a class=\"s {word}\" href=\"#{id}\" data-word=\"{word}\" data-variant=\"{variant}\" \
         data-text=\"{text}\" title=\"{title}\" aria-label=\"{label}\">{glyph}</a>",
        id = subject.id,
        variant = escape(&entry.variant),
        text = escape(&text.to_lowercase()),
        title = escape(&title),
        label = escape(&label),
        glyph = html::glyph(word)
    );
}
