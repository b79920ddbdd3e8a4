//! Which known kernel bugs are live here: the cases that must fail somewhere, played now.

use serde::{Deserialize, Serialize};

use crate::kit::verdict::{Verdict, not_run};
use crate::run::results::{self, Run};
use crate::run::{self, Order, plan};
use crate::target::Target;

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

/// Known bugs that are live on a target.
///
/// # Errors
/// As [`play`]; NOTRUN when not one variant could be played there.
pub fn live(target: &str) -> anyhow::Result<Vec<Bug>> {
    let known = plan::cases().iter().filter(|case| !case.expected.is_empty() && case.is_in("all"));
    let names: Vec<String> = known.map(|case| case.id.to_owned()).collect();
    let run = run::silently(Order::of(Target::parse(target)?, names)?)?;
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
    let on = if kind.starts_with("fuse") { "inflight" } else { kind };
    let target = Target::parse(on).ok().filter(Target::is_gated)?;
    Some(format!("inflight-race run FK1 FK2 --on {}", target.name()))
}

#[cfg(test)]
mod tests {
    use super::certain;

    #[test]
    fn every_filesystem_that_can_be_gated_has_a_certain_command() {
        let on = |kind: &str| certain(kind)?.split(' ').next_back().map(str::to_owned);
        for kind in ["ext4", "xfs", "btrfs", "vfat"] {
            assert_eq!(on(kind).as_deref(), Some(kind));
        }
        assert_eq!(on("fuse.sshfs").as_deref(), Some("inflight"));
        assert_eq!((on("tmpfs"), on("overlay"), on("nfs4"), on("?")), (None, None, None, None));
    }
}
