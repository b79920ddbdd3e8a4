//! One variant: verdict, what was seen, its timeline, notes, and how to play it again.

use std::fmt::Write;

use super::subject::{Subject, run_name};
use super::{escape, html, strips, timeline};
use crate::kit::verdict::Verdict;
use crate::run::results::{Entry, Run};

/// Faults that are shown at once; the others are one click away.
const FAULTS_SHOWN: usize = 4;

/// Draws it.
pub fn draw(out: &mut String, runs: &[Run], subject: &Subject<'_>) {
    let (entry, run) = (subject.entry(), &runs[subject.run]);
    let word = entry.verdict.word();
    let _ = writeln!(
        out,
        "<article id=\"{}\" data-word=\"{word}\" aria-label=\"{} {}\">",
        subject.id,
        escape(&entry.case),
        escape(&entry.variant)
    );
    let _ = writeln!(
        out,
        "<p class=\"where\"><b>{}</b> {} <span>on {}, {}</span></p>\n<h2>{} <code>{}</code></h2>\n\
         <p class=\"claim\">{}</p>",
        escape(&entry.case),
        escape(&entry.name),
        escape(&run_name(run)),
        escape(&run.kernel.release),
        html::chip(word),
        escape(&entry.variant),
        escape(&entry.claim)
    );
    let detail = entry.verdict.detail();
    if !detail.is_empty() {
        let _ = writeln!(out, "<p class=\"reason {word}\">{}</p>", escape(&detail));
    }
    facts(out, run, subject);
    seen(out, entry);
    timeline::draw(out, &entry.played);
    if !entry.played.notes.is_empty() {
        out.push_str("<h3>Notes</h3>\n<ul class=\"notes\">");
        for note in &entry.played.notes {
            // A table keeps its columns.
            let tag = if note.contains('\n') { "pre" } else { "span" };
            let _ = write!(out, "<li><{tag}>{}</{tag}></li>", escape(note));
        }
        out.push_str("</ul>\n");
    }
    let _ = writeln!(
        out,
        "<h3>Play it again</h3>\n<div class=\"again\"><pre>{}</pre><button type=\"button\" \
         class=\"copy\">copy</button></div>\n</article>",
        escape(&entry.repro)
    );
}

fn facts(out: &mut String, run: &Run, subject: &Subject<'_>) {
    let played = &subject.entry().played;
    let mut facts =
        vec![("race", time(played.seconds * 1e9)), ("control", time(played.control_seconds * 1e9))];
    if let Some(ns) = timeline::window_ns(played) {
        facts.push(("window open", time(ns as f64)));
    }
    facts.push(("seed", run.seed.to_string()));
    if subject.rounds.len() > 1 {
        facts.push(("rounds", rounds(&subject.rounds)));
    }
    out.push_str("<dl class=\"facts\">");
    for (name, value) in facts {
        let _ = write!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    out.push_str("</dl>\n");
}

/// `100: 99 PASS, 1 FAIL`.
fn rounds(rounds: &[&Entry]) -> String {
    let count = |word: &str| rounds.iter().filter(|entry| entry.verdict.word() == word).count();
    let counts: Vec<_> = Verdict::WORDS
        .into_iter()
        .filter(|word| count(word) > 0)
        .map(|word| format!("{} {word}", count(word)))
        .collect();
    format!("{}: {}", rounds.len(), counts.join(", "))
}

fn seen(out: &mut String, entry: &Entry) {
    let played = &entry.played;
    if played.faults.is_empty() && played.strips.is_empty() {
        return;
    }
    out.push_str("<h3>What was seen</h3>\n<ul class=\"faults\">");
    for (number, fault) in played.faults.iter().enumerate() {
        if number == FAULTS_SHOWN {
            let more = played.faults.len() - FAULTS_SHOWN;
            let _ =
                write!(out, "</ul>\n<details><summary>{more} more</summary><ul class=\"faults\">");
        }
        let text = escape(&fault.text);
        let _ = write!(out, "<li><b>{}</b> {text}</li>", fault.class.name());
    }
    out.push_str(if played.faults.len() > FAULTS_SHOWN { "</ul></details>\n" } else { "</ul>\n" });
    strips::draw(out, &played.strips);
}

/// A span of ns in the unit that suits it.
pub(super) fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        _ if ns >= 1e9 => (ns / 1e9, "s"),
        _ if ns >= 1e6 => (ns / 1e6, "ms"),
        _ => (ns / 1e3, "µs"),
    };
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let texts = [0.0, 1500.0, 65_432.0, 312_400.0, 4.25e6, 2.5e9].map(time);
        assert_eq!(texts, ["0.00 µs", "1.50 µs", "65.4 µs", "312 µs", "4.25 ms", "2.50 s"]);
    }
}
