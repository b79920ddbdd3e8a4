//! What cases show of mechanisms: their verdicts, and the words in which they say what they saw.

use super::{Mechanism, Outcome, Show, options};
use crate::kit::pins;
use crate::kit::seen::Seen;
use crate::kit::verdict::{Class, Verdict, not_run, reason_not_run};
use crate::run::plan::{self, Item, Wanted};
use crate::run::results::{Entry, Run};
use crate::run::{self, Interrupted, Order};
use crate::target::Target;

/// Where a mechanism is shown, if it is: the target, and the options of its mounts.
pub type Place = Option<(&'static str, &'static str)>;

/// See [`Place`].
pub fn place(mechanism: &'static Mechanism) -> Place {
    match &mechanism.show {
        Show::Case { on, case } => Some((on, options(on, case))),
        Show::Command { .. } | Show::Nothing { .. } => None,
    }
}

/// Plays the cases of mechanisms that are shown in the same place; gives what came of each.
///
/// # Errors
/// [`Interrupted`]. What else went wrong came of all of them.
pub fn play(
    place: Place,
    mechanisms: Vec<&'static Mechanism>,
) -> anyhow::Result<Vec<(&'static Mechanism, Outcome)>> {
    let run = match run(place, &mechanisms) {
        Err(error) if error.is::<Interrupted>() => return Err(error),
        other => other.map_err(|error| match reason_not_run(&error) {
            Some(reason) => Outcome::Not(reason.to_owned()),
            None => Outcome::Failed(format!("{error:#}")),
        }),
    };
    let outcome = |mechanism: &Mechanism| match (&mechanism.show, &run) {
        (Show::Command { command }, _) => Outcome::Not(format!("see `{command}`")),
        (Show::Nothing { nothing }, _) => Outcome::Not(nothing.clone()),
        (Show::Case { .. }, Err(outcome)) => outcome.clone(),
        (Show::Case { on, case }, Ok(run)) => {
            let items = items(vec![case.clone()]).unwrap_or_default();
            let is_its = |entry: &&Entry| {
                items
                    .iter()
                    .any(|item| (&item.case, &item.variant) == (&entry.case, &entry.variant))
            };
            let entries: Vec<_> = run.variants.iter().filter(is_its).collect();
            seen(&entries, &format!("{case} on {on}"))
        }
    };
    Ok(mechanisms.into_iter().map(|mechanism| (mechanism, outcome(mechanism))).collect())
}

fn run(place: Place, mechanisms: &[&Mechanism]) -> anyhow::Result<Run> {
    let case = |mechanism: &&Mechanism| match &mechanism.show {
        Show::Case { case, .. } => Some(case.clone()),
        _ => None,
    };
    let cases: Vec<_> = mechanisms.iter().filter_map(case).collect();
    let (on, options) = place.unwrap_or(("", ""));
    if cases.is_empty() {
        return Err(not_run("no case shows it"));
    }
    let order = Order { options: options.to_owned(), ..Order::of(Target::parse(on)?, cases)? };
    run::silently(order)
}

fn items(cases: Vec<String>) -> anyhow::Result<Vec<Item>> {
    plan::plan(&Wanted { cases, ..Wanted::default() })
}

/// What variants came to. One that proved nothing leaves open what it would have shown: unless others already
/// show what must not be, nothing was observed.
fn seen(entries: &[&Entry], what: &str) -> Outcome {
    let is_not_run = |entry: &&&Entry| {
        matches!(entry.verdict, Verdict::Notrun { .. } | Verdict::Serialised { .. })
    };
    let (skipped, played): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(is_not_run);
    if played.is_empty() {
        // It may have been seen, with nothing to hold it against.
        let seen = skipped.iter().find_map(|entry| entry.played.seen.clone());
        let reason = skipped.first().map_or(String::new(), |entry| entry.verdict.detail());
        return seen.map_or(Outcome::Not(reason), Outcome::Seen);
    }
    let differs = Verdict::Fail { classes: vec![Class::Differs] };
    if let [entry] = played[..]
        && let Some(seen) = entry.played.seen.clone()
    {
        match &seen.wanted {
            Some(wanted) if entry.verdict == differs => {
                return Outcome::Differs { expected: wanted.clone(), seen };
            }
            _ if entry.verdict == Verdict::Pass => return Outcome::Seen(seen),
            _ => {}
        }
    }
    let (mut classes, mut open): (Vec<Class>, Vec<&Entry>) = (Vec::new(), Vec::new());
    let (mut harmed, mut unexpected, mut first) = (0, 0, None);
    for entry in &played {
        match &entry.verdict {
            Verdict::Fail { classes: more } => {
                (harmed, unexpected) = (harmed + 1, unexpected + 1);
                let fault = entry.played.faults.first();
                first = first.or_else(|| {
                    let line = fault?.text.lines().next()?;
                    Some(format!("{}: {line}", entry.variant))
                });
                classes.extend(more);
            }
            Verdict::Xfail { classes: more, .. } => {
                harmed += 1;
                classes.extend(more);
            }
            Verdict::Xpass { .. } => unexpected += 1,
            Verdict::Broken { .. } | Verdict::Noproof { .. } => open.push(entry),
            Verdict::Pass | Verdict::Serialised { .. } | Verdict::Notrun { .. } => {}
        }
    }
    let count = played.len();
    let of_open = open.first().map(|first| {
        let (open, word, detail) = (open.len(), first.verdict.word(), first.verdict.detail());
        format!("{open} of {count} variants of {what} proved nothing: {word} {detail}")
    });
    if let Some(reason) = of_open.as_ref().filter(|_| unexpected == 0) {
        // Other load on the machine is nobody's fault.
        let is_of_others = open.iter().all(|entry| match &entry.verdict {
            Verdict::Noproof { reason } => reason.starts_with(pins::OF_OTHERS),
            _ => false,
        });
        let reason = reason.clone();
        return if is_of_others { Outcome::Not(reason) } else { Outcome::Failed(reason) };
    }
    classes.sort();
    classes.dedup();
    let names: Vec<_> = classes.iter().map(|class| class.name()).collect();
    let word = if names.is_empty() { "nothing harmed".to_owned() } else { names.join("+") };
    let some = if harmed > 0 { format!("{harmed} of ") } else { String::new() };
    let evidence = [Some(format!("{some}{count} variants of {what}")), first, of_open];
    let evidence: Vec<_> = evidence.into_iter().flatten().collect();
    let seen = Seen::new(word, evidence.join("; "));
    match unexpected {
        0 => Outcome::Seen(seen),
        _ => Outcome::Differs { seen, expected: "what the case's table says".to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::worker::Played;

    fn entry(verdict: &Verdict) -> Entry {
        let (case, name, claim) = ("FK1".to_owned(), String::new(), String::new());
        let (variant, repro) = (String::new(), String::new());
        Entry {
            case,
            name,
            claim,
            variant,
            verdict: verdict.clone(),
            repro,
            played: Played::default(),
        }
    }

    fn of(verdicts: &[&Verdict]) -> Outcome {
        let entries: Vec<_> = verdicts.iter().map(|&verdict| entry(verdict)).collect();
        seen(&entries.iter().collect::<Vec<_>>(), "FK1 on ext4")
    }

    #[test]
    fn what_proved_nothing_is_neither_harmless_nor_left_out() {
        let reason = || "the gate is gone".to_owned();
        let broken = Verdict::Broken { reason: reason() };
        let noproof = Verdict::Noproof { reason: reason() };
        let notrun = Verdict::Notrun { reason: reason() };
        let fail = Verdict::Fail { classes: vec![Class::Lost] };
        let xfail = Verdict::Xfail { classes: vec![Class::Leak], reference: reason() };
        let failed = |verdicts: &[&Verdict], wanted: &str| {
            assert_eq!(of(verdicts), Outcome::Failed(wanted.to_owned()));
        };
        let text = |count: &str, word: &str| {
            format!("{count} variants of FK1 on ext4 proved nothing: {word} the gate is gone")
        };
        failed(&[&broken, &broken], &text("2 of 2", "BROKEN"));
        failed(&[&Verdict::Pass, &noproof, &notrun], &text("1 of 2", "NOPROOF"));
        failed(&[&xfail, &broken], &text("1 of 2", "BROKEN"));
        let Outcome::Differs { seen, .. } = of(&[&fail, &broken]) else { panic!("harm is lost") };
        assert_eq!(seen.word, "LOST");
        assert!(seen.evidence.ends_with(&text("1 of 2", "BROKEN")), "{seen}");
    }

    #[test]
    fn only_what_cannot_be_played_is_left_out() {
        let notrun = Verdict::Notrun { reason: "no loop devices".to_owned() };
        let xfail = Verdict::Xfail { classes: vec![Class::Leak], reference: String::new() };
        let xpass = Verdict::Xpass { reference: String::new() };
        assert_eq!(of(&[&notrun]), Outcome::Not("no loop devices".to_owned()));
        let others = Verdict::Noproof { reason: format!("{}: +3", pins::OF_OTHERS) };
        let not = of(&[&Verdict::Pass, &others]);
        assert!(matches!(not, Outcome::Not(_)), "{not:?}");
        let text = |verdicts: &[&Verdict]| match of(verdicts) {
            Outcome::Seen(seen) => seen.to_string(),
            Outcome::Differs { seen, .. } => format!("{seen} unexpected"),
            other => panic!("{other:?}"),
        };
        let pass = &Verdict::Pass;
        assert_eq!(text(&[pass, &notrun]), "nothing harmed (1 variants of FK1 on ext4)");
        assert_eq!(text(&[pass, &xfail]), "LEAK (1 of 2 variants of FK1 on ext4)");
        assert_eq!(text(&[pass, &xpass]), "nothing harmed (2 variants of FK1 on ext4) unexpected");
    }

    #[test]
    fn a_fact_is_told_in_its_own_word() {
        let of = |verdict: &Verdict, wanted: Option<&str>| {
            let mut entry = entry(verdict);
            let wanted = wanted.map(str::to_owned);
            entry.played.seen = Some(Seen { wanted, ..Seen::new("pinned", "") });
            seen(&[&entry], "FA2:vmsplice on /tmp")
        };
        let word = |outcome| match outcome {
            Outcome::Seen(seen) => seen.word,
            Outcome::Differs { seen, expected } => format!("{} and not {expected}", seen.word),
            other => panic!("{other:?}"),
        };
        assert_eq!(word(of(&Verdict::Pass, Some("pinned"))), "pinned");
        let differs = Verdict::Fail { classes: vec![Class::Differs] };
        assert_eq!(word(of(&differs, Some("not pinned"))), "pinned and not not pinned");
        let unknown = Verdict::Notrun { reason: "nothing is known".to_owned() };
        assert_eq!(word(of(&unknown, None)), "pinned");
    }
}
