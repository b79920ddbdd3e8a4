//! JUnit XML, as CI systems read it: FAIL, XPASS and NOPROOF are failures, BROKEN is an error; XFAIL, SERIALISED and NOTRUN
//! are skipped, each with its reason. A suite is a target on a kernel, with the properties that play it again.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use chrono::DateTime;
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

use super::subject::run_name;
use crate::kit::verdict::Verdict;
use crate::run::results::{Entry, Run};

/// All runs as test suites.
///
/// # Errors
/// None in practice: the text cannot be written.
pub fn suites(runs: &[Run]) -> anyhow::Result<String> {
    let mut report = Report::new("inflight-race");
    report.add_test_suites(runs.iter().map(suite));
    report.set_time(report.test_suites.iter().filter_map(|suite| suite.time).sum());
    report.to_string().context("JUnit")
}

fn suite(run: &Run) -> TestSuite {
    let mut suite = TestSuite::new(format!("{} {}", run_name(run), run.kernel.release));
    let mut rounds: HashMap<(&str, &str), usize> = HashMap::new();
    for entry in &run.variants {
        let round = rounds.entry((&entry.case, &entry.variant)).or_default();
        *round += 1;
        suite.add_test_case(case(entry, *round));
    }
    suite.set_time(run.variants.iter().map(took).sum());
    if let Some(started) = DateTime::from_timestamp(run.started as i64, 0) {
        suite.set_timestamp(started);
    }
    let properties = [
        ("target", run.target.name()),
        ("options", run.options.clone()),
        ("seed", run.seed.to_string()),
        ("kernel", run.kernel.release.clone()),
        ("build", run.kernel.build.clone()),
        ("machine", run.kernel.machine.clone()),
        ("guest", run.vm.as_ref().map_or_else(String::new, |guest| guest.words().join(" "))),
        ("inflight-race", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    suite.add_properties(properties.map(|(name, value)| Property::new(name, value)));
    suite
}

/// What a CI system is told of a verdict.
fn status(verdict: &Verdict) -> TestCaseStatus {
    match verdict {
        Verdict::Pass => TestCaseStatus::success(),
        Verdict::Fail { .. } | Verdict::Xpass { .. } | Verdict::Noproof { .. } => {
            TestCaseStatus::non_success(NonSuccessKind::Failure)
        }
        Verdict::Broken { .. } => TestCaseStatus::non_success(NonSuccessKind::Error),
        Verdict::Xfail { .. } | Verdict::Serialised { .. } | Verdict::Notrun { .. } => {
            TestCaseStatus::skipped()
        }
    }
}

fn case(entry: &Entry, round: usize) -> TestCase {
    let mut status = status(&entry.verdict);
    let faults = entry.played.faults.iter();
    let faults = faults.map(|fault| format!("{} {}\n", fault.class.name(), fault.text));
    status.set_type(entry.verdict.word());
    status.set_message(format!("{} {}", entry.verdict.word(), entry.verdict.detail()).trim_end());
    status.set_description(faults.collect::<String>() + &entry.repro);
    let name = match round {
        1 => entry.variant.clone(),
        _ => format!("{} (round {round})", entry.variant),
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(format!("{} {}", entry.case, entry.name)).set_time(took(entry));
    case.add_property(("verdict", entry.verdict.word())).add_property(("repro", &*entry.repro));
    case.add_property(("claim", &*entry.claim));
    case
}

/// The control counts: it is waited for, too.
fn took(entry: &Entry) -> Duration {
    let seconds = entry.played.seconds + entry.played.control_seconds;
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{fail, run};
    use crate::target::Target;

    #[test]
    fn suites_have_times_the_seed_and_reasons_and_are_read_again() {
        let reference = "harness/findings <1>".to_owned();
        let xfail = Verdict::Xfail { classes: Vec::new(), reference };
        let notrun = Verdict::Notrun { reason: "no root".to_owned() };
        let mut run = run(Target::Inflight, &[Verdict::Pass, fail(), fail(), xfail, notrun]);
        (run.seed, run.started) = (42, 1_700_000_000);
        for (at, entry) in run.variants.iter_mut().enumerate() {
            (entry.played.seconds, entry.played.control_seconds) = (at as f64, 0.5);
        }
        let text = suites(&[run]).unwrap();
        let report = Report::deserialize_from_str(&text).unwrap();
        let suite = &report.test_suites[0];
        assert_eq!((report.tests, report.failures, report.errors, report.skipped), (5, 2, 0, 2));
        assert_eq!(suite.time, Some(Duration::from_millis(12_500)));
        assert_eq!(suite.timestamp.unwrap().timestamp(), 1_700_000_000);
        let seed = suite.properties.iter().find(|property| property.name.as_str() == "seed");
        assert_eq!(seed.unwrap().value.as_str(), "42");
        let names: Vec<_> = suite.test_cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names[1..3], ["vFAIL", "vFAIL (round 2)"]);
        assert_eq!(suite.test_cases[2].time, Some(Duration::from_millis(2500)));
        let skipped = r#"<skipped message="XFAIL  (harness/findings &lt;1&gt;)" type="XFAIL">"#;
        assert!(text.contains(skipped), "{text}");
        assert!(text.contains("LOST byte 0: &quot;bad&quot; &lt;script&gt;\n"), "{text}");
    }
}
