//! What a run is judged by and how it is told: expected failures of one's own, files of exclusions, KTAP.

mod support;

use std::path::Path;
use std::process::Output;

use support::{race, text};

/// Runs META cases on a plain directory, with a fresh folder for the results.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    let _ = std::fs::remove_dir_all(folder.join("results"));
    let all = ["run", "--on", "./", "--scratch", ".", "--results", "results", "--seed", "7"];
    race(folder, &[&all, arguments].concat()).output().unwrap()
}

const OWN: &str = "[[expected]]
case = 'META1'
variant = 'lost'
class = 'LOST'
reference = 'our bug 12'
";

/// A row of one's own makes its harm expected, also where the table is not asked, and nothing else.
#[test]
fn a_harm_that_one_knows_is_expected() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.toml"), OWN).unwrap();
    for raw in [&[][..], &["--raw"]] {
        let output = run(folder.path(), &[&["META1:lost", "--expected", "own.toml"], raw].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert!(text(&output).contains("LOST (our bug 12)"), "{}", text(&output));
    }
    let other = OWN.replace("'LOST'", "'STALE'");
    std::fs::write(folder.path().join("own.toml"), other).unwrap();
    let output = run(folder.path(), &["META1:lost", "--expected", "own.toml"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}

#[test]
fn a_wrong_table_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.toml"), OWN.replace("META1", "META99")).unwrap();
    let output = run(folder.path(), &["META1", "--expected", "own.toml"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("own.toml: unknown case 'META99'; nearest: META"), "{said}");
    assert!(!folder.path().join("results").exists());
}

#[test]
fn a_file_says_what_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "# not today\nMETA1:lost-*   # all of them\n\nMETA2\n";
    std::fs::write(folder.path().join("exclude"), lines).unwrap();
    let output = run(folder.path(), &["META1:lost*", "META2", "-E", "exclude"]);
    assert!(text(&output).contains("variants 1\n"), "{}", text(&output));
    let output = run(folder.path(), &["META1", "-E", "nowhere"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("nowhere: No such file"), "{}", text(&output));
}

/// As Documentation/dev-tools/ktap.rst wants it: version, plan, a numbered line for each, remarks behind '#'.
#[test]
fn ktap_has_a_plan_and_a_line_for_each_variant() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.toml"), OWN).unwrap();
    let cases = ["META1:lost", "META1:lost-then-error"];
    let output = run(folder.path(), &[&cases[..], &["--ktap", "--expected", "own.toml"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut lines = printed.lines();
    assert_eq!(lines.next(), Some("KTAP version 1"));
    let plain: Vec<_> = lines.filter(|line| !line.starts_with('#')).collect();
    let wanted = [
        "1..2",
        "ok 1 META1:lost # XFAIL LOST (our bug 12)",
        "not ok 2 META1:lost-then-error # FAIL LOST",
    ];
    assert_eq!(plain, wanted, "{printed}");
    assert!(printed.contains("\n# inflight-race run META1:lost-then-error --on"), "{printed}");
}
