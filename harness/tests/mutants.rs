//! `inflight-race mutants` where there is nothing to prove with. The proof itself is a part of scripts/test.

use std::process::{Command, Output};

use inflight_race::stage;

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

/// A server without the feature plays all variants and has none of the defects.
#[test]
fn a_server_without_defects_is_told_apart_from_one_whose_defects_survive() {
    let Some(server) = stage::program().ok().filter(|_| nix::unistd::geteuid().is_root()) else {
        eprintln!("skipped: needs root, and `inflight` beside the program");
        return;
    };
    let output = mutants(&server);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.contains("variants played on the server as it should be"), "{text}");
    assert!(text.contains("the server was built without --features mutants"), "{text}");
}
