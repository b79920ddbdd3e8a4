//! Which known kernel bugs are live here: the cases that must fail somewhere, played now.

use std::process::{Command, Stdio};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::cases;
use crate::results::{self, Run};
use crate::verdict::{Verdict, not_run};

/// A case that harmed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bug {
    /// The case's short name.
    pub case: String,
    /// Its long name.
    pub name: String,
    /// Classes of harm, and the reference where the kernel is known for it.
    pub harm: String,
    /// Variants that were harmed, of how many.
    pub variants: (usize, usize),
}

/// Plays all variants of cases on a target and gives the results.
///
/// # Errors
/// Nothing could be played at all.
pub fn play(target: &str, cases: &[String]) -> anyhow::Result<Run> {
    let folder = tempfile::tempdir().context("a folder for results")?;
    let output = Command::new(std::env::current_exe().context("our own path")?)
        .args(["run", "--quiet", "--on", target, "--results"])
        .arg(folder.path())
        .args(cases)
        .stdin(Stdio::null())
        .output()
        .context("start the races")?;
    results::read_run(folder.path()).with_context(|| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        format!("the races did not run: {}", text.trim())
    })
}

/// Known bugs that are live on a target.
///
/// # Errors
/// As [`play`]; NOTRUN when not one variant could be played there.
pub fn live(target: &str) -> anyhow::Result<Vec<Bug>> {
    let known = cases::ALL.iter().filter(|case| !case.expected.is_empty() && case.is_in("all"));
    let names: Vec<String> = known.map(|case| case.id.to_owned()).collect();
    let run = play(target, &names)?;
    let stopped = |entry: &results::Entry| match &entry.verdict {
        Verdict::Notrun { reason } | Verdict::Broken { reason } => Some(reason.clone()),
        _ => None,
    };
    if let Some(reason) = run.variants.iter().map(stopped).reduce(Option::and).flatten() {
        return Err(not_run(reason));
    }
    Ok(harmed(&run))
}

/// Cases of a run in which something was harmed.
pub fn harmed(run: &Run) -> Vec<Bug> {
    let mut bugs: Vec<Bug> = Vec::new();
    for entry in &run.variants {
        if !matches!(entry.verdict, Verdict::Fail { .. } | Verdict::Xfail { .. }) {
            continue;
        }
        match bugs.iter_mut().find(|bug| bug.case == entry.case) {
            Some(bug) => bug.variants.0 += 1,
            None => bugs.push(Bug {
                case: entry.case.clone(),
                name: entry.name.clone(),
                harm: entry.verdict.detail(),
                variants: (1, run.variants.iter().filter(|e| e.case == entry.case).count()),
            }),
        }
    }
    bugs
}

/// The command that plays a case on the filesystem of a folder, parked and certain, where there is one.
pub fn certain(kind: &str) -> Option<String> {
    let gated = ["ext4", "xfs", "btrfs"].contains(&kind) || kind.starts_with("fuse");
    let on = if kind.starts_with("fuse") { "inflight" } else { kind };
    gated.then(|| format!("inflight-race run FK1 FK2 --on {on}"))
}
