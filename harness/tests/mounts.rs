//! The first races on real mounts, where this machine can have them: an `inflight` beside the test, /dev/fuse, root.

use std::path::Path;
use std::process::Command;

use inflight_race::results;
use inflight_race::stage;

const PROGRAM: &str = env!("CARGO_BIN_EXE_inflight-race");

/// Runs cases on a target and gives what came of them; `None` where the machine cannot.
fn run(target: &str, cases: &[&str]) -> Option<results::Run> {
    let program = stage::program().or_else(|_| beside_the_test());
    let Ok(program) = program else {
        eprintln!("skipped: no `inflight` was built");
        return None;
    };
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: needs root and /dev/fuse");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(PROGRAM)
        .env("INFLIGHT", program)
        .args(["run", "--on", target, "--results", "results"])
        .args(cases)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let run = results::read_run(&folder.path().join("results")).expect(&text);
    let bad: Vec<_> = run
        .variants
        .iter()
        .filter(|entry| entry.verdict.is_unexpected())
        .map(|e| &e.variant)
        .collect();
    assert!(bad.is_empty(), "{bad:?}\n{text}");
    Some(run)
}

/// Test binaries lie one folder below the programs.
fn beside_the_test() -> anyhow::Result<std::path::PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).map(|folder| folder.join("inflight"));
    folder.filter(|file| file.is_file()).ok_or_else(|| anyhow::anyhow!("none"))
}

#[test]
fn the_first_races_on_inflight() {
    let Some(run) = run("inflight", &["-g", "first"]) else { return };
    let passed = run.variants.iter().filter(|entry| entry.verdict.word() == "PASS").count();
    assert!(passed >= 40, "{passed} of {}", run.variants.len());
    let held = run.variants.iter().find(|entry| entry.case == "FK1").unwrap();
    assert!(held.played.records.iter().any(|record| !record.holds.is_empty()), "the gate was used");
    assert!(run.variants.iter().all(|entry| entry.played.seconds < 5.0));
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
fn every_kind_of_iterator_reaches_the_mount_and_carries_the_content() {
    let Some(run) = run("inflight", &["IT1"]) else { return };
    let passed = |act: &str| {
        let of = |entry: &&results::Entry| entry.variant.starts_with(act);
        run.variants.iter().filter(of).all(|entry| entry.verdict.word() == "PASS")
    };
    assert!(["ubuf", "iovec", "bvec", "kvec-exec"].into_iter().all(passed), "{:?}", run.variants);
}
