//! The first races on real mounts, where this machine can have them: an `inflight` beside the test, /dev/fuse, root.

mod support;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use inflight_race::run::results;
use support::{PROGRAM, inflight, race};

/// Runs cases on a target and gives what came of them; `None` where the machine cannot.
fn run(target: &str, cases: &[&str]) -> Option<results::Run> {
    let program = inflight()?;
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["run", "--on", target, "--results", "results"];
    let output =
        race(folder.path(), &arguments).env("INFLIGHT", program).args(cases).output().unwrap();
    Some(check(folder.path(), &output))
}

/// The results of a run in which nothing unexpected may have happened.
fn check(folder: &Path, output: &Output) -> results::Run {
    let text = String::from_utf8_lossy(&output.stdout);
    let run = results::read_run(&folder.join("results")).expect(&text);
    let unexpected = run.variants.iter().filter(|entry| entry.verdict.is_unexpected());
    let bad: Vec<_> = unexpected.map(|entry| &entry.variant).collect();
    assert!(bad.is_empty(), "{bad:?}\n{text}");
    run
}

#[test]
fn the_first_races_on_inflight() {
    let Some(run) = run("inflight", &["-g", "first"]) else { return };
    let passed = run.variants.iter().filter(|entry| entry.verdict.word() == "PASS").count();
    assert!(passed >= 40, "{passed} of {}", run.variants.len());
    let held = run.variants.iter().find(|entry| entry.case == "FK1").unwrap();
    assert!(held.played.records.iter().any(|record| !record.holds.is_empty()), "the gate was used");
}

#[test]
fn the_first_races_on_somebodys_server() {
    if !support::is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = ["--server", "bindfs -f {dir} {}", "--intercept"];
    // It opens files with FOPEN_DIRECT_IO: there is no page that a pipe could hold, which is SP2's proof.
    let arguments = ["run", "--results", "results", "-g", "first", "-x", "SP2"];
    let output = race(folder.path(), &arguments).args(server).output().unwrap();
    let run = check(folder.path(), &output);
    let passed = run.variants.iter().filter(|entry| entry.verdict.word() == "PASS").count();
    assert!(passed >= 20, "{passed} of {}: {}", run.variants.len(), support::text(&output));
    let held = run.variants.iter().filter(|entry| entry.case == "TR1");
    assert!(held.flat_map(|entry| &entry.played.records).any(|record| !record.holds.is_empty()));
}

#[test]
fn a_fork_race_on_ext4_behind_the_loop_gate() {
    let Some(run) = run("ext4", &["FK1", "FK2"]) else { return };
    let held = |entry: &results::Entry| entry.played.records.iter().any(|r| !r.holds.is_empty());
    assert!(
        run.variants.iter().any(held) || run.variants.iter().all(|e| e.verdict.word() == "NOTRUN")
    );
}

#[test]
fn the_splicing_server_holds_payloads_and_moves_pages() {
    let Some(run) = run("inflight", &["SP4:spliced*", "WB1:spliced*", "KL1:move*", "SP1:*-empty"])
    else {
        return;
    };
    let word = |case: &str| run.variants.iter().find(|e| e.case == case).unwrap().verdict.word();
    assert_eq!((word("SP4"), word("WB1"), word("KL1")), ("PASS", "PASS", "PASS"));
}

#[test]
fn a_piece_of_the_matrix_on_inflight() {
    let Some(run) = run("inflight", &["-g", "matrix", "--shard", "7/100"]) else { return };
    assert!(run.variants.len() > 30);
    let parked = |e: &results::Entry| e.played.records.iter().any(|r| !r.holds.is_empty());
    // An abort takes the gate along, and with it the log; the case itself makes sure that the request was held.
    let is_logged = |e: &results::Entry| !e.variant.starts_with("abort/");
    let played =
        |e: &&results::Entry| ["PASS", "XFAIL"].contains(&e.verdict.word()) && is_logged(e);
    assert!(run.variants.iter().filter(played).all(parked), "every one had a request in flight");
}

#[test]
fn a_payload_that_is_replaced_in_a_window_of_the_kernel_is_found() {
    let Some(program) = inflight() else { return };
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["run", "--on", "inflight", "--results", "results", "META7"];
    let output = race(folder.path(), &arguments).env("INFLIGHT", program).output().unwrap();
    let run = results::read_run(&folder.path().join("results")).expect("results");
    let word = |variant: &str| {
        let entry = run.variants.iter().find(|entry| entry.variant == variant);
        entry.map(|entry| entry.verdict.word().to_owned())
    };
    let words = ["queued", "copying", "received"].map(|phase| word(&format!("replaced/{phase}")));
    let wanted = ["FAIL", "FAIL", "PASS"].map(|word| Some(word.to_owned()));
    assert_eq!(words, wanted, "{}", support::text(&output));
}

#[test]
fn every_kind_of_iterator_reaches_the_mount_and_carries_the_content() {
    let Some(run) = run("inflight", &["IT1"]) else { return };
    let passed = |act: &str| {
        let of = |entry: &&results::Entry| entry.variant.starts_with(act);
        run.variants.iter().filter(of).all(|entry| entry.verdict.word() == "PASS")
    };
    assert!(["ubuf", "iovec", "bvec", "kvec-exec"].into_iter().all(passed), "{:?}", run.variants);
}

/// As a user who may lock little memory, see no page frames and make no loop device: every variant passes or
/// says why it is not played.
#[test]
fn an_ordinary_user_gets_reasons_and_no_failures() {
    let Some(program) = inflight() else { return };
    const NOBODY: u32 = 65534;
    let folder = tempfile::tempdir().unwrap();
    // Where that user can reach them.
    let (race, inflight) = (folder.path().join("inflight-race"), folder.path().join("inflight"));
    std::fs::copy(PROGRAM, &race).unwrap();
    std::fs::copy(program, &inflight).unwrap();
    std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let output = Command::new(race)
        .env("INFLIGHT", inflight)
        .args(["run", "-g", "quick", "--scratch", ".", "--results", "results"])
        .current_dir(folder.path())
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    check(folder.path(), &output);
}
