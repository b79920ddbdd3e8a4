//! Two runs side by side: on two kernels, two filesystems, or before and after a change.

use std::collections::BTreeMap;
use std::path::Path;

use crate::kit::verdict::Verdict;
use crate::run::results::{self, Run};

/// A variant by case and name.
type Key<'a> = (&'a str, &'a str);

/// Reads two runs.
///
/// # Errors
/// A folder holds no results.
pub fn read(old: &Path, new: &Path) -> anyhow::Result<(Run, Run)> {
    Ok((results::read_run(old)?, results::read_run(new)?))
}

/// Prints what differs; gives 1 where the newer run has harm that the older has not, else 0.
pub fn print(old: &Run, new: &Run) -> i32 {
    for (name, run) in [("old", old), ("new", new)] {
        let (release, target) = (&run.kernel.release, run.target.subject());
        println!("{name}  {release} on {target}, {} variants", run.variants.len());
    }
    let changes = changes(old, new);
    for ((case, variant), from, to) in &changes {
        println!("{case}:{variant}  {} -> {}", told(*from), told(*to));
    }
    if changes.is_empty() {
        println!("no difference");
    }
    i32::from(changes.iter().any(|(_, from, to)| is_harm(*to) && !is_harm(*from)))
}

/// What differs, in the order of their names. A variant that only one run has differs.
fn changes<'a>(
    old: &'a Run,
    new: &'a Run,
) -> Vec<(Key<'a>, Option<&'a Verdict>, Option<&'a Verdict>)> {
    let (old, new) = (by_name(old), by_name(new));
    let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
    let pairs = keys.map(|key| (*key, old.get(key).copied(), new.get(key).copied()));
    let mut all: Vec<_> = pairs.filter(|(_, from, to)| told(*from) != told(*to)).collect();
    all.sort_by_key(|(key, ..)| *key);
    all
}

/// Of a variant that was played more often, the worst: harm counts however rare it is.
fn by_name(run: &Run) -> BTreeMap<Key<'_>, &Verdict> {
    let mut all: BTreeMap<Key<'_>, &Verdict> = BTreeMap::new();
    for entry in &run.variants {
        let kept = all.entry((&entry.case, &entry.variant)).or_insert(&entry.verdict);
        if is_harm(Some(&entry.verdict)) && !is_harm(Some(kept)) {
            *kept = &entry.verdict;
        }
    }
    all
}

/// Harm, expected or not.
fn is_harm(verdict: Option<&Verdict>) -> bool {
    matches!(verdict, Some(Verdict::Fail { .. } | Verdict::Xfail { .. }))
}

fn told(verdict: Option<&Verdict>) -> String {
    let Some(verdict) = verdict else { return "not there".to_owned() };
    match verdict {
        Verdict::Fail { classes } | Verdict::Xfail { classes, .. } => {
            let classes: Vec<_> = classes.iter().map(|class| class.name()).collect();
            format!("{} {}", verdict.word(), classes.join("+"))
        }
        _ => verdict.word().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::kernel::Kernel;
    use crate::kit::verdict::Class;
    use crate::run::Order;
    use crate::run::results::Entry;
    use crate::run::worker::Played;
    use crate::target::Target;

    fn run(verdicts: &[(&str, Verdict)]) -> Run {
        let kernel = Kernel::running().unwrap();
        let mut run = Run::new(&Order::empty(Target::Tmpfs), kernel);
        for (variant, verdict) in verdicts {
            run.variants.push(Entry {
                case: "FK1".to_owned(),
                name: String::new(),
                claim: String::new(),
                variant: (*variant).to_owned(),
                verdict: verdict.clone(),
                repro: String::new(),
                played: Played::default(),
            });
        }
        run
    }

    #[test]
    fn new_harm_is_told_and_harm_that_is_gone_is_no_reason_to_fail() {
        let lost = Verdict::Fail { classes: vec![Class::Lost] };
        let before = run(&[("a", Verdict::Pass), ("b", lost.clone()), ("c", Verdict::Pass)]);
        let after = run(&[("a", Verdict::Pass), ("a", lost), ("b", Verdict::Pass)]);
        let told: Vec<_> = changes(&before, &after)
            .iter()
            .map(|((_, variant), from, to)| format!("{variant} {} {}", told(*from), told(*to)))
            .collect();
        assert_eq!(told, ["a PASS FAIL LOST", "b FAIL LOST PASS", "c PASS not there"]);
        assert_eq!((print(&before, &after), print(&before, &before)), (1, 0));
    }
}
