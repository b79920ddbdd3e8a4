//! One self-contained HTML page: no network, no fonts, no libraries. Left the matrix of verdicts, right one
//! variant with all that was seen of it. Without scripts it is one long document with everything in it.

use std::fmt::Write;

use super::subject::{RANKS, Subject};
use super::{article, escape, matrix};
use crate::run::results::Run;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The page.
pub fn page(runs: &[Run]) -> String {
    let subjects = Subject::all(runs);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{}inflight-race</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        attention(&subjects).map_or(String::new(), |text| format!("{text} · "))
    );
    head(&mut out, runs, &subjects);
    out.push_str("<main>\n<div class=\"left\">\n");
    matrix::draw(&mut out, runs, &subjects);
    legend(&mut out);
    out.push_str("</div>\n<div class=\"right\" tabindex=\"-1\">\n");
    for subject in &subjects {
        article::draw(&mut out, runs, subject);
    }
    let _ = writeln!(out, "</div>\n</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>");
    out
}

/// How many of each verdict, what asks to be looked at first; none that is not there.
fn counts(subjects: &[Subject<'_>]) -> Vec<(&'static str, usize)> {
    let count =
        |word| subjects.iter().filter(|subject| subject.entry().verdict.word() == word).count();
    RANKS.into_iter().map(|word| (word, count(word))).filter(|(_, count)| *count > 0).collect()
}

/// `2 FAIL, 1 BROKEN`: what somebody has to look at.
fn attention(subjects: &[Subject<'_>]) -> Option<String> {
    let bad = ["FAIL", "BROKEN", "XPASS", "NOPROOF"];
    let text = |(word, count): (&str, usize)| format!("{count} {word}");
    let texts: Vec<_> =
        counts(subjects).into_iter().filter(|(word, _)| bad.contains(word)).map(text).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

fn head(out: &mut String, runs: &[Run], subjects: &[Subject<'_>]) {
    let total = subjects.len();
    let news = match attention(subjects) {
        Some(text) => format!("<strong class=\"bad\">{text}</strong>: to be looked at"),
        None => "<strong>nothing unexpected</strong>".to_owned(),
    };
    let kernel = match matrix::the_kernel(runs) {
        Some(kernel) => format!(" on Linux {}", escape(kernel)),
        None => " on several kernels".to_owned(),
    };
    let _ = writeln!(
        out,
        "<header>\n<div class=\"title\"><h1>inflight-race</h1><p>{total} variants{kernel}, {news}</p>\
         <button id=\"theme\" type=\"button\" title=\"light or dark\">auto</button></div>"
    );
    out.push_str("<div class=\"bar\" aria-hidden=\"true\">");
    for (word, count) in counts(subjects) {
        let _ = write!(out, "<i class=\"{word}\" style=\"flex-grow:{count}\"></i>");
    }
    out.push_str(
        "</div>\n<div class=\"tools\" role=\"toolbar\" aria-label=\"filter by verdict and text\">",
    );
    for (word, count) in counts(subjects) {
        let _ = write!(
            out,
            "<button type=\"button\" class=\"filter\" data-word=\"{word}\" aria-pressed=\"false\" \
             title=\"{}\"><b class=\"s {word}\">{}</b>{word} <span>{count}</span></button>",
            meaning(word),
            glyph(word)
        );
    }
    let _ = writeln!(
        out,
        "<input id=\"text\" type=\"search\" placeholder=\"Case, variant, target, fault …\" \
         aria-label=\"filter by text\" autocomplete=\"off\" spellcheck=\"false\">\
         <output id=\"shown\" for=\"text\">{total} of {total}</output></div>\n</header>"
    );
}

fn legend(out: &mut String) {
    out.push_str("<dl class=\"legend\">");
    for word in RANKS {
        let (glyph, meaning) = (glyph(word), meaning(word));
        let _ = write!(out, "<dt><b class=\"s {word}\">{glyph}</b>{word}</dt><dd>{meaning}</dd>");
    }
    out.push_str(
        "</dl>\n<p class=\"keys\"><kbd>/</kbd> filter <kbd>n</kbd> <kbd>p</kbd> next and previous \
         <kbd>&larr;</kbd><kbd>&uarr;</kbd><kbd>&darr;</kbd><kbd>&rarr;</kbd> in the matrix \
         <kbd>Esc</kbd> everything again</p>\n",
    );
}

/// What tells the verdicts apart where colours do not.
pub(super) fn glyph(word: &str) -> &'static str {
    match word {
        "FAIL" => "✕",
        "XFAIL" => "≈",
        "XPASS" => "+",
        "NOPROOF" => "?",
        "SERIALISED" => "–",
        "BROKEN" => "!",
        _ => "",
    }
}

fn meaning(word: &str) -> &'static str {
    match word {
        "PASS" => "raced, and nothing was harmed",
        "FAIL" => "something was harmed that should not have been here",
        "XFAIL" => "failed as the table says that this kernel must",
        "XPASS" => "passed where the table says that it must fail",
        "NOPROOF" => "the window never overlapped: nothing was shown",
        "SERIALISED" => "the kernel held the racer back until the I/O was over: no race",
        "NOTRUN" => "cannot be played here, for a stated reason",
        _ => "the setup failed: nothing is said about the subject",
    }
}

/// Opens the element that holds a verdict's word.
pub(super) fn chip(word: &str) -> String {
    format!("<span class=\"chip {word}\" title=\"{}\">{word}</span>", escape(meaning(word)))
}
