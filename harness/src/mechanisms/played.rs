//! A mechanism that a case shows: the case is played, and its verdicts are the observation.

use crate::kit::pins;
use crate::kit::verdict::{Class, Verdict, not_run};
use crate::observe::Seen;
use crate::run::results::Entry;
use crate::run::{self, Order};
use crate::target::Target;

/// Plays a case on a target: `nothing harmed`, or the classes of harm.
///
/// # Errors
/// NOTRUN when not one variant could be played, or what is counted was not ours alone; what stopped the first that was BROKEN or
/// NOPROOF.
pub fn play(on: &str, cases: &str) -> anyhow::Result<Seen> {
    let run = run::silently(Order::of(Target::parse(on)?, vec![cases.to_owned()])?)?;
    seen(&run.variants, &format!("{cases} on {on}"))
}

/// What variants came to. One that proved nothing leaves open what it would have shown: unless others already
/// show what must not be, nothing was observed.
fn seen(entries: &[Entry], what: &str) -> anyhow::Result<Seen> {
    let is_not_run = |entry: &&Entry| {
        matches!(entry.verdict, Verdict::Notrun { .. } | Verdict::Serialised { .. })
    };
    let (skipped, played): (Vec<_>, Vec<_>) = entries.iter().partition(is_not_run);
    if played.is_empty() {
        let first = skipped.first().map_or(String::new(), |entry| entry.verdict.detail());
        return Err(not_run(first));
    }
    let (mut classes, mut open): (Vec<Class>, Vec<&Entry>) = (Vec::new(), Vec::new());
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
        return Err(match is_of_others {
            true => not_run(reason.clone()),
            false => anyhow::anyhow!("{reason}"),
        });
    }
    classes.sort();
    classes.dedup();
    let names: Vec<_> = classes.iter().map(|class| class.name()).collect();
    let mut word = if names.is_empty() { "nothing harmed".to_owned() } else { names.join("+") };
    if unexpected > 0 {
        word += " unexpected";
    }
    let some = if harmed > 0 { format!("{harmed} of ") } else { String::new() };
    let evidence = [Some(format!("{some}{count} variants of {what}")), of_open];
    let evidence: Vec<_> = evidence.into_iter().flatten().collect();
    Ok(Seen::new(word, evidence.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::verdict::Stop;
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

    fn of(verdicts: &[&Verdict]) -> anyhow::Result<Seen> {
        let entries: Vec<_> = verdicts.iter().map(|&verdict| entry(verdict)).collect();
        seen(&entries, "FK1 on ext4")
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
            let error = of(verdicts).unwrap_err();
            assert!(error.downcast_ref::<Stop>().is_none(), "{error}");
            assert_eq!(error.to_string(), wanted);
        };
        let text = |count: &str, word: &str| {
            format!("{count} variants of FK1 on ext4 proved nothing: {word} the gate is gone")
        };
        failed(&[&broken, &broken], &text("2 of 2", "BROKEN"));
        failed(&[&Verdict::Pass, &noproof, &notrun], &text("1 of 2", "NOPROOF"));
        failed(&[&xfail, &broken], &text("1 of 2", "BROKEN"));
        let seen = of(&[&fail, &broken]).unwrap();
        assert_eq!(seen.word, "LOST unexpected");
        assert!(seen.evidence.ends_with(&text("1 of 2", "BROKEN")), "{seen}");
    }

    #[test]
    fn only_what_cannot_be_played_is_left_out() {
        let notrun = Verdict::Notrun { reason: "no loop devices".to_owned() };
        let xfail = Verdict::Xfail { classes: vec![Class::Leak], reference: String::new() };
        let xpass = Verdict::Xpass { reference: String::new() };
        let error = of(&[&notrun]).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Stop::NotRun("no loop devices".to_owned())));
        let others = Verdict::Noproof { reason: format!("{}: +3", pins::OF_OTHERS) };
        let error = of(&[&Verdict::Pass, &others]).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Stop::NotRun(_))), "{error}");
        let text = |verdicts: &[&Verdict]| of(verdicts).unwrap().to_string();
        let pass = &Verdict::Pass;
        assert_eq!(text(&[pass, &notrun]), "nothing harmed (1 variants of FK1 on ext4)");
        assert_eq!(text(&[pass, &xfail]), "LEAK (1 of 2 variants of FK1 on ext4)");
        assert_eq!(text(&[pass, &xpass]), "nothing harmed unexpected (2 variants of FK1 on ext4)");
    }
}
