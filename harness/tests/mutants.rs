//! `inflight-race mutants` where there is nothing to prove with. The proof itself is a part of scripts/test.

use std::process::{Command, Output};

use inflight_race::target::programs;

fn mutants(server: &std::path::Path) -> Output {
    let program = env!("CARGO_BIN_EXE_inflight-race");
    Command::new(program).arg("mutants").env("INFLIGHT_MUTANTS", server).output().unwrap()
}

#[test]
fn without_a_server_nothing_is_said_to_be_proved() {
    let output = mutants("/no/such/server".as_ref());
    assert_eq!(output.status.code(), Some(4));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("$INFLIGHT_MUTANTS: /no/such/server is not there"), "{text}");
}

/// Nothing is mounted to find that out.
#[test]
fn a_server_without_defects_is_told_apart_from_one_whose_defects_survive() {
    let Ok(server) = programs::inflight() else {
        eprintln!("skipped: needs `inflight` beside the program");
        return;
    };
    let output = mutants(&server);
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(last.starts_with("NOTRUN ") && last.contains("scripts/test mutants"), "{text}");
    assert!(last.contains("built without --features inflight/mutants"), "{text}");
}

/// A server that refuses every mount for another reason is not one without defects.
#[test]
fn a_server_that_cannot_mount_is_not_taken_for_one_without_defects() {
    if !nix::unistd::geteuid().is_root() || !std::path::Path::new("/dev/fuse").exists() {
        eprintln!("skipped: needs root and /dev/fuse");
        return;
    }
    let output = mutants("/bin/false".as_ref());
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(!text.contains("without --features"), "{text}");
}
