//! One self-contained HTML page: no network, no fonts, no libraries.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{WORDS, escape, summary, timeline};
use crate::results::{Entry, Run};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The page.
pub fn page(runs: &[Run]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>inflight-race</title><style>{STYLE}</style></head><body>\n<h1>inflight-race</h1>\n"
    );
    for run in runs {
        let _ = writeln!(out, "<p class=\"summary\">{}</p>", escape(&summary(run)));
    }
    filters(&mut out);
    matrix(&mut out, runs);
    for (number, run) in runs.iter().enumerate() {
        section(&mut out, number, run);
    }
    let _ = writeln!(out, "<script>{SCRIPT}</script></body></html>");
    out
}

fn filters(out: &mut String) {
    out.push_str("<div class=\"filters\">");
    for word in WORDS {
        let _ = write!(
            out,
            "<label><input type=\"checkbox\" checked value=\"{word}\"> \
             <span class=\"v {word}\">{word}</span></label>"
        );
    }
    out.push_str("</div>\n");
}

/// Cases down, runs across; each cell counts the verdicts of its variants.
fn matrix(out: &mut String, runs: &[Run]) {
    let mut cases: Vec<(&str, &str)> = Vec::new();
    for entry in runs.iter().flat_map(|run| &run.variants) {
        let key = (entry.case.as_str(), entry.name.as_str());
        if !cases.contains(&key) {
            cases.push(key);
        }
    }
    out.push_str("<table><thead><tr><th>case</th>");
    for run in runs {
        let name = format!("{} {}", run.target.name(), run.options);
        let release = escape(&run.kernel.release);
        let _ = write!(out, "<th>{}<br><small>{release}</small></th>", escape(name.trim()));
    }
    out.push_str("</tr></thead><tbody>");
    for (case, name) in cases {
        let _ = write!(out, "<tr><th>{} <small>{}</small></th>", escape(case), escape(name));
        for (number, run) in runs.iter().enumerate() {
            out.push_str("<td>");
            let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
            for entry in run.variants.iter().filter(|entry| entry.case == case) {
                let word = WORDS.iter().position(|word| *word == entry.verdict.word());
                *counts.entry(word.unwrap_or(0)).or_default() += 1;
            }
            for (word, count) in counts {
                let word = WORDS[word];
                let _ = write!(
                    out,
                    "<a class=\"v {word}\" href=\"#r{number}-{}\">{count} {word}</a> ",
                    escape(case)
                );
            }
            out.push_str("</td>");
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table>\n");
}

fn section(out: &mut String, number: usize, run: &Run) {
    let _ = writeln!(out, "<h2>{}</h2>", escape(&summary(run)));
    let _ = writeln!(
        out,
        "<p><small>kernel {} {}; seed {}</small></p>",
        escape(&run.kernel.release),
        escape(&run.kernel.build),
        run.seed
    );
    let mut last = "";
    for entry in &run.variants {
        if entry.case != last {
            last = &entry.case;
            let _ = writeln!(
                out,
                "<h3 id=\"r{number}-{0}\">{0} {1}</h3><p>{2}</p>",
                escape(&entry.case),
                escape(&entry.name),
                escape(&entry.claim)
            );
        }
        variant(out, entry);
    }
}

fn variant(out: &mut String, entry: &Entry) {
    let word = entry.verdict.word();
    let _ = write!(
        out,
        "<details data-v=\"{word}\"><summary><span class=\"v {word}\">{word}</span> <code>{}</code> \
         <small>{:.4} s {}</small></summary>",
        escape(&entry.variant),
        entry.played.seconds,
        escape(&entry.verdict.detail())
    );
    if !entry.played.faults.is_empty() {
        out.push_str("<ul class=\"faults\">");
        for fault in &entry.played.faults {
            let _ = write!(out, "<li><b>{}</b> {}</li>", fault.class.name(), escape(&fault.text));
        }
        out.push_str("</ul>");
    }
    for note in &entry.played.notes {
        let _ = write!(out, "<p class=\"note\">{}</p>", escape(note));
    }
    out.push_str(&timeline::draw(&entry.played));
    let _ = writeln!(out, "<pre>{}</pre></details>", escape(&entry.repro));
}
