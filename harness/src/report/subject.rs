//! What the page shows as one thing: a variant on a run, with all the rounds in which it was played.

use std::collections::HashMap;

use crate::run::results::{Entry, Run};

/// A variant on a run.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Number of the run.
    pub run: usize,
    /// The anchor of its article.
    pub id: String,
    /// Every round, in order; at least one.
    pub rounds: Vec<&'a Entry>,
}

/// Verdicts by how much they ask to be looked at.
pub const RANKS: [&str; 8] =
    ["FAIL", "BROKEN", "XPASS", "NOPROOF", "XFAIL", "PASS", "SERIALISED", "NOTRUN"];

impl<'a> Subject<'a> {
    /// All subjects of all runs, in the order in which they were first played.
    pub fn all(runs: &'a [Run]) -> Vec<Subject<'a>> {
        let mut subjects: Vec<Subject<'a>> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for (number, run) in runs.iter().enumerate() {
            for entry in &run.variants {
                let id = id(number, entry);
                let place = *places.entry(id.clone()).or_insert_with(|| {
                    subjects.push(Subject { run: number, id, rounds: Vec::new() });
                    subjects.len() - 1
                });
                subjects[place].rounds.push(entry);
            }
        }
        subjects
    }

    /// The round that is shown: the first of those that most ask to be looked at.
    pub fn entry(&self) -> &'a Entry {
        let rank = |entry: &&&Entry| {
            let word = entry.verdict.word();
            RANKS.iter().position(|rank| *rank == word)
        };
        self.rounds.iter().min_by_key(rank).expect("a subject has a round")
    }
}

/// A name that stays the same from report to report, as long as the runs are given in the same order.
fn id(run: usize, entry: &Entry) -> String {
    let name = format!("{}.{}.{run}", entry.case, entry.variant);
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
        .collect()
}

/// Target and options of a run.
pub fn run_name(run: &Run) -> String {
    format!("{} {}", run.target.name(), run.options).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::verdict::Verdict;
    use crate::report::tests::{fail, run};
    use crate::target::Target;

    #[test]
    fn rounds_are_one_subject_that_shows_its_first_failure() {
        let mut run = run(Target::Inflight, &[Verdict::Pass, fail(), Verdict::Pass, fail()]);
        for (round, entry) in run.variants.iter_mut().enumerate() {
            entry.variant = "a/b=c".to_owned();
            entry.played.seconds = round as f64;
        }
        let runs = [run];
        let subjects = Subject::all(&runs);
        assert_eq!(subjects.len(), 1);
        assert_eq!(subjects[0].id, "FK1.a_b_c.0");
        assert_eq!((subjects[0].rounds.len(), subjects[0].entry().played.seconds), (4, 1.0));
    }
}
