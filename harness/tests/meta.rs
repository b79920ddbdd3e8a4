//! The harness against itself: cases that must fail, hang, be skipped and break; bad input; interruption.

mod support;

use inflight_race::kit::pause::Pause;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use inflight_race::run::results;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{PROGRAM, race, text};

/// Runs the harness on a plain directory: no root, no gate, no mount. Results of an earlier run are removed.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    let _ = std::fs::remove_dir_all(folder.join("results"));
    let mut all = vec!["run", "--on", "./", "--scratch", ".", "--results", "results"];
    all.extend(arguments);
    race(folder, &all).output().unwrap()
}

fn entries(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

const NO_GATE: &str = "NOTRUN needs the gate in front of the filesystem itself";

#[test]
fn every_meta_case_ends_as_it_must() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["-g", "meta", "--bound", "2", "--seed", "7"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let run = results::read_run(&folder.path().join("results")).unwrap();
    assert_eq!(run.seed, 7);
    let words: BTreeMap<_, _> = run
        .variants
        .iter()
        .map(|entry| {
            (entry.variant.as_str(), format!("{} {}", entry.verdict.word(), entry.verdict.detail()))
        })
        .collect();
    // Page frames are root's to see.
    let is_root = nix::unistd::geteuid().is_root();
    let pages = if is_root { "FAIL PINS" } else { "NOTRUN page frames are not readable here" };
    let wanted = [
        ("lost", "FAIL LOST"),
        ("lost-then-notrun", "FAIL LOST"),
        ("lost-then-noproof", "FAIL LOST"),
        ("lost-then-error", "FAIL LOST"),
        ("lost-then-panic", "FAIL LOST"),
        ("known", "PASS"),
        ("differs", "FAIL DIFFERS"),
        ("unknown", "NOTRUN nothing is known of"),
        ("never-returns", "FAIL HANG"),
        ("never-ends", "FAIL HANG"),
        ("dies", "BROKEN the worker ended: signal: 6"),
        ("notrun", "NOTRUN this machine has no flux capacitor"),
        ("serialised", "SERIALISED the racer waited until the I/O was over"),
        ("noproof", "NOPROOF the window never overlapped"),
        ("control", "BROKEN the control without the race fails: STALE: also without the race"),
        ("control-notrun", "BROKEN the control without the race fails: STALE"),
        ("error", "BROKEN no such thing"),
        ("panic", "BROKEN the case panicked: as told"),
        ("held", pages),
        ("freed", pages),
        ("pinned", "NOTRUN needs a gate"),
        ("watchdog", NO_GATE),
        ("replaced/received", NO_GATE),
        ("replaced/queued", NO_GATE),
        ("replaced/copying", NO_GATE),
    ];
    assert_eq!(words.len(), wanted.len(), "{words:?}");
    for (variant, start) in wanted {
        assert!(words[variant].starts_with(start), "{variant}: {}", words[variant]);
    }
    assert_eq!(entries(folder.path()), ["results"], "nothing is left in the target");
}

#[test]
fn exit_codes_tell_skips_and_broken_setups_apart() {
    let folder = tempfile::tempdir().unwrap();
    let code = |case: &str| run(folder.path(), &[case]).status.code();
    assert_eq!(code("META3:notrun"), Some(4));
    assert_eq!(code("META3:noproof"), Some(5));
    assert_eq!(code("META3:serialised"), Some(5), "no race was run");
    assert_eq!(code("META4:error"), Some(3));
    let gated = run(folder.path(), &["FK1"]);
    assert_eq!(gated.status.code(), Some(4), "{}", text(&gated));
    assert!(text(&gated).contains("needs a gate"), "{}", text(&gated));
}

#[test]
fn bad_input_gets_the_nearest_names_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, wanted) in [
        (&["FK11"][..], "unknown case 'FK11'; nearest: FK1"),
        (&["-g", "mata"], "unknown group 'mata'; nearest: meta"),
        (&["-x", "META9"], "unknown case 'META9'; nearest: META"),
        (&["--shard", "3/2"], "must be 1/2 to 2/2"),
        (&["--no-such-option"], "--no-such-option"),
    ] {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(wanted), "{}", text(&output));
    }
    for (target, wanted) in [("ext5", "nearest: ext4"), ("./none", "target ./none: No such file")] {
        let output = race(folder.path(), &["run", "--on", target]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(wanted), "{}", text(&output));
    }
    assert!(entries(folder.path()).is_empty());
}

#[test]
fn a_result_can_be_replayed() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &["META1"]);
    let output = race(folder.path(), &["replay", "results/META1/lost.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("META1 lost"), "{}", text(&output));
}

/// Starts a run that hangs, waits until its worker is there, and gives it to `end`.
fn interrupted(end: Signal) -> (tempfile::TempDir, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let arguments =
        ["run", "META2:never-returns", "--on", "./", "--scratch", ".", "--results", "results"];
    let mut child = race(folder.path(), &arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let bound = Instant::now() + Duration::from_secs(20);
    let has = |what: &str| entries(folder.path()).iter().any(|name| name.starts_with(what));
    let mut pause = Pause::default();
    while !has(".inflight-race.") {
        assert!(Instant::now() < bound, "the worker never set up its target");
        pause.rest();
    }
    kill(Pid::from_raw(child.id() as i32), end).unwrap();
    let code = child.wait().unwrap().code();
    let mut pause = Pause::default();
    while has("inflight-race.") {
        assert!(Instant::now() < bound, "the guard left {:?}", entries(folder.path()));
        pause.rest();
    }
    (folder, code)
}

#[test]
fn nothing_is_left_after_an_interrupt() {
    let (folder, code) = interrupted(Signal::SIGINT);
    assert_eq!(code, Some(130));
    assert_eq!(entries(folder.path()), ["results"]);
}

#[test]
fn nothing_is_left_after_a_kill() {
    let (folder, code) = interrupted(Signal::SIGKILL);
    assert_eq!(code, None);
    assert_eq!(entries(folder.path()), Vec::<String>::new());
}

#[test]
fn json_lines_tell_a_run_as_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["META1:lost", "META3:no*", "--json", "--seed", "5"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let lines: Vec<serde_json::Value> = output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("every line is an object"))
        .collect();
    let told: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    let wanted = ["start", "begin", "variant", "begin", "variant", "begin", "variant", "end"];
    assert_eq!(told, wanted);
    assert_eq!((&lines[0]["seed"], &lines[0]["variants"]), (&5.into(), &3.into()));
    assert_eq!((&lines[2]["verdict"], &lines[2]["detail"]), (&"FAIL".into(), &"LOST".into()));
    assert!(lines[2]["faults"][0]["text"].is_string() && lines[2]["seconds"].is_number());
    let end = lines.last().unwrap();
    assert_eq!((&end["exit_code"], &end["left"]), (&1.into(), &0.into()));
    assert_eq!(end["counts"], serde_json::json!({"FAIL": 1, "NOPROOF": 1, "NOTRUN": 1}));
}

#[test]
fn shards_come_together_in_one_report() {
    let folder = tempfile::tempdir().unwrap();
    let shard = |number: &str| {
        let results = format!("shard{}", &number[..1]);
        let arguments = ["run", "META1:lost", "META3:no*", "META4", "--on", "./", "--scratch", "."];
        let more = ["--shard", number, "--results", &results];
        race(folder.path(), &arguments).args(more).output().unwrap();
    };
    shard("1/2");
    shard("2/2");
    let arguments =
        ["report", "shard1", "shard2", "--html", "p.html", "--junit", "j.xml", "--json", "r.json"];
    let output = race(folder.path(), &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let runs: Vec<results::Run> = serde_json::from_str(&read("r.json")).unwrap();
    let [run] = &runs[..] else { panic!("two shards of one run are {} runs", runs.len()) };
    let whole = ["lost", "notrun", "noproof", "control", "control-notrun", "error", "panic"];
    let mut names: Vec<_> = run.variants.iter().map(|entry| entry.variant.as_str()).collect();
    names.sort_unstable();
    let mut wanted = whole.to_vec();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    let (page, suites) = (read("p.html"), read("j.xml"));
    assert_eq!((page.matches("<article").count(), suites.matches("<testcase").count()), (7, 7));
    assert!(suites.contains(r#"skipped="1" errors="4" failures="2""#), "{suites}");
}

#[test]
fn a_stress_run_passes_on_a_directory_and_proves_nothing_where_nothing_met() {
    let folder = tempfile::tempdir().unwrap();
    let stress = ["--mode", "stress", "--seed", "3"];
    let output = run(folder.path(), &[&stress[..], &["ST1:sync", "--time", "0s"]].concat());
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(text(&output).contains("NOPROOF"), "{}", text(&output));
    let output = run(folder.path(), &[&stress[..], &["ST1:async", "--time", "2s"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let run = results::read_run(&folder.path().join("results")).unwrap();
    let notes = run.variants[0].played.notes.join("\n");
    assert!(notes.contains("seed 3") && notes.contains("overlaps"), "{notes}");
}

/// Results are told apart by their folders: named by the time of day, the newest is `latest`, and none is written over.
#[test]
fn each_run_has_a_folder_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["run", "META1:lost", "--on", "./", "--scratch", ".", "--quiet"];
    let output = race(folder.path(), &words).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let latest = folder.path().join("race-results/latest");
    let name = std::fs::read_link(&latest).unwrap().into_os_string().into_string().unwrap();
    let is_date = name.len() == 19 && name.starts_with("20") && name.as_bytes()[10] == b'T';
    assert!(is_date && !name.contains(':'), "{name}");
    assert_eq!(results::read_run(&latest).unwrap().variants.len(), 1);
    let again = race(folder.path(), &words).output().unwrap();
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    assert_ne!(std::fs::read_link(&latest).unwrap().to_str(), Some(&*name));
    let named = [&words[..], &["--results", "race-results/latest"]].concat();
    let refused = race(folder.path(), &named).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    let wanted = "race-results/latest has the results of an earlier run: name another folder";
    assert!(text(&refused).contains(wanted), "{}", text(&refused));
}

/// The line that is printed for a variant plays it again, as it stands.
#[test]
fn the_repro_line_reproduces() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["META1:lost", "--seed", "7"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let line = results::read_run(&folder.path().join("results")).unwrap().variants[0].repro.clone();
    let programs = Path::new(PROGRAM).parent().unwrap().display();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.current_dir(folder.path()).env("PATH", path).args(["-c", &line]);
    let output = shell.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{line}: {}", text(&output));
    let again = results::read_run(&folder.path().join("race-results/latest")).unwrap();
    assert_eq!((again.seed, again.variants[0].verdict.word()), (7, "FAIL"), "{line}");
    assert_eq!(again.variants[0].repro, line);
}
