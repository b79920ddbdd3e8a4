//! The table of mechanisms and the probe, on this kernel.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use serde_json::Value;

/// The kernel counts everybody's pins: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs the program; `None` where the machine has no FUSE or we are not root.
fn output(arguments: &[&str]) -> Option<Value> {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: needs root and /dev/fuse");
        return None;
    }
    let _alone = ALONE.lock();
    let mut command = Command::new(env!("CARGO_BIN_EXE_inflight-race"));
    if let Some(program) = beside_the_test() {
        command.env("INFLIGHT", program);
    }
    let output = command.args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}\n{error}", output.status);
    Some(serde_json::from_str(&text).expect(&text))
}

/// Test binaries lie one folder below the programs.
fn beside_the_test() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let program = own.parent()?.parent()?.join("inflight");
    program.is_file().then_some(program)
}

#[test]
fn what_the_table_expects_of_this_kernel_is_seen() {
    // The exit code says whether anything differs from the table.
    let Some(shown) = output(&["mechanisms", "--json"]) else { return };
    let rows = shown[0]["rows"].as_array().unwrap();
    let seen = rows.iter().filter(|row| row["outcome"].get("seen").is_some()).count();
    assert!(rows.len() > 60 && seen > 20, "{seen} of {} seen", rows.len());
}

#[test]
fn an_unknown_mechanism_is_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inflight-race"));
    let output = command.args(["mechanisms", "0.999"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no mechanism 0.999"));
}

#[test]
fn a_probe_answers_every_question_with_evidence() {
    let folder = tempfile::tempdir().unwrap();
    let Some(found) = output(&["probe", "--json", folder.path().to_str().unwrap()]) else { return };
    let known = |seen: &Value| {
        let word = seen["word"].as_str().unwrap();
        assert!(!word.is_empty() && seen["evidence"].is_string(), "{seen}");
        word.to_owned()
    };
    assert!(["gone", "there", "not known"].contains(&known(&found["iter_pipe"]).as_str()));
    let splice = found["splice"].as_array().unwrap();
    assert_eq!(known(&splice[0][1]), "page cache", "a buffered splice");
    assert_eq!(splice.len(), 4);
    assert_eq!(found["registered"].as_array().unwrap().len(), 10);
    // Sampled answers say how often and how long.
    if !found["alignment"].is_null() {
        assert!(found["held"]["tries"].as_u64().unwrap() > 0 && found["held"]["seconds"].is_f64());
    }
    assert!(found["bugs"].as_array().unwrap().len() >= 2);
}
