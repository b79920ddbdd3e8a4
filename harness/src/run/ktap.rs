//! What a run says in KTAP (Documentation/dev-tools/ktap.rst), as the kernel's own tests do.

use super::results::{Entry, Run};
use crate::kit::verdict::Verdict;

/// Version and plan of a run of so many variants.
pub fn head(run: &Run, variants: usize) -> String {
    let (kernel, target) = (&run.kernel, run.target.name());
    format!(
        "KTAP version 1\n# {} {} on {target} {}, seed {}\n1..{variants}",
        kernel.release, kernel.build, run.options, run.seed
    )
}

/// The line of a variant; before it, where it is not ok, what was seen and how to play it again.
pub fn result(number: usize, entry: &Entry) -> String {
    let verdict = &entry.verdict;
    let (word, detail) = (verdict.word(), verdict.detail());
    let (ok, directive) = match verdict {
        Verdict::Pass => ("ok", String::new()),
        Verdict::Xfail { .. } => ("ok", format!(" # XFAIL {detail}")),
        Verdict::Notrun { .. } | Verdict::Serialised { .. } | Verdict::Noproof { .. } => {
            ("ok", format!(" # SKIP {word} {detail}"))
        }
        Verdict::Broken { .. } => ("not ok", format!(" # ERROR {detail}")),
        Verdict::Fail { .. } | Verdict::Xpass { .. } => ("not ok", format!(" # {word} {detail}")),
    };
    let mut lines = Vec::new();
    if ok == "not ok" {
        let faults = &entry.played.faults;
        lines.extend(faults.iter().map(|fault| format!("{} {}", fault.class.name(), fault.text)));
        lines.push(entry.repro.clone());
    }
    // A report of the kernel has many lines.
    let remarks = lines.iter().flat_map(|text| text.lines()).map(|line| format!("# {line}"));
    let name = format!("{}:{}", entry.case, entry.variant).replace('#', "\\#");
    let line = format!("{ok} {number} {name}{}", directive.replace('\n', " "));
    remarks.chain([line]).collect::<Vec<_>>().join("\n")
}
