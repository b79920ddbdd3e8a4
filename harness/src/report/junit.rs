//! JUnit XML, as CI systems read it: FAIL, XPASS and NOPROOF are failures, BROKEN is an error, SERIALISED and NOTRUN are
//! skipped.

use std::fmt::Write;

use super::escape;
use crate::kit::verdict::Verdict;
use crate::run::results::{Entry, Run};

/// All runs as test suites.
pub fn suites(runs: &[Run]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for run in runs {
        suite(&mut out, run);
    }
    out.push_str("</testsuites>\n");
    out
}

fn suite(out: &mut String, run: &Run) {
    let count =
        |kind: Kind| run.variants.iter().filter(|entry| Kind::of(&entry.verdict) == kind).count();
    let name = format!("{} {} {}", run.target.name(), run.options, run.kernel.release);
    let _ = writeln!(
        out,
        r#"  <testsuite name="{}" tests="{}" failures="{}" errors="{}" skipped="{}">"#,
        escape(&name),
        run.variants.len(),
        count(Kind::Failure),
        count(Kind::Error),
        count(Kind::Skipped)
    );
    for entry in &run.variants {
        case(out, entry);
    }
    out.push_str("  </testsuite>\n");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Failure,
    Error,
    Skipped,
}

impl Kind {
    fn of(verdict: &Verdict) -> Kind {
        match verdict {
            Verdict::Pass | Verdict::Xfail { .. } => Kind::Good,
            Verdict::Fail { .. } | Verdict::Xpass { .. } | Verdict::Noproof { .. } => Kind::Failure,
            Verdict::Broken { .. } => Kind::Error,
            Verdict::Serialised { .. } | Verdict::Notrun { .. } => Kind::Skipped,
        }
    }
}

fn case(out: &mut String, entry: &Entry) {
    let _ = write!(
        out,
        r#"    <testcase classname="{} {}" name="{}" time="{:.6}""#,
        escape(&entry.case),
        escape(&entry.name),
        escape(&entry.variant),
        entry.played.seconds
    );
    let message = escape(&format!("{} {}", entry.verdict.word(), entry.verdict.detail()));
    let tag = match Kind::of(&entry.verdict) {
        Kind::Good => {
            out.push_str("/>\n");
            return;
        }
        Kind::Failure => "failure",
        Kind::Error => "error",
        Kind::Skipped => "skipped",
    };
    let _ = write!(out, ">\n      <{tag} message=\"{message}\">");
    for fault in &entry.played.faults {
        let _ = writeln!(out, "{} {}", fault.class.name(), escape(&fault.text));
    }
    let _ = writeln!(out, "{}</{tag}>\n    </testcase>", escape(&entry.repro));
}
