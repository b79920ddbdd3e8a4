//! A mechanism that a case shows: the case is played, and its verdicts are the observation.

use crate::observe::Seen;
use crate::observe::bugs;
use crate::results::Entry;
use crate::verdict::{Class, Verdict, not_run};

/// Plays a case on a target: `nothing harmed`, or the classes of harm.
///
/// # Errors
/// NOTRUN when not one variant could be played.
pub fn play(on: &str, cases: &str) -> anyhow::Result<Seen> {
    let run = bugs::play(on, &[cases.to_owned()])?;
    let stopped = |entry: &&Entry| {
        matches!(
            entry.verdict,
            Verdict::Notrun { .. } | Verdict::Noproof { .. } | Verdict::Broken { .. }
        )
    };
    let played: Vec<&Entry> = run.variants.iter().filter(|entry| !stopped(entry)).collect();
    if played.is_empty() {
        let first = run.variants.first().map_or(String::new(), |entry| entry.verdict.detail());
        return Err(not_run(first));
    }
    let mut classes: Vec<Class> = Vec::new();
    let (mut harmed, mut unexpected) = (0, 0);
    for entry in &played {
        match &entry.verdict {
            Verdict::Fail { classes: more } => {
                (harmed, unexpected) = (harmed + 1, unexpected + 1);
                classes.extend(more);
            }
            Verdict::Xfail { classes: more, .. } => {
                harmed += 1;
                classes.extend(more);
            }
            Verdict::Xpass { .. } => unexpected += 1,
            _ => {}
        }
    }
    classes.sort();
    classes.dedup();
    let names: Vec<_> = classes.iter().map(|class| class.name()).collect();
    let mut word = if names.is_empty() { "nothing harmed".to_owned() } else { names.join("+") };
    if unexpected > 0 {
        word += " unexpected";
    }
    let count = played.len();
    let evidence = if harmed > 0 {
        format!("{harmed} of {count} variants of {cases} on {on}")
    } else {
        format!("{count} variants of {cases} on {on}")
    };
    Ok(Seen::new(word, evidence))
}
