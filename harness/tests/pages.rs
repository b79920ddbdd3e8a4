//! Manual pages and completions of the program: of all that it shows, and of nothing that it starts for itself.

mod support;

use std::process::{Command, Stdio};

use support::{race, text};

#[test]
fn each_command_that_is_shown_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("pages");
    std::fs::create_dir(&pages).unwrap();
    let output = race(folder.path(), &["manual", "pages"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let read = |name: &str| std::fs::read_to_string(pages.join(name)).expect(name);
    assert!(read("inflight-race.1").starts_with(".ie"), "roff");
    for (command, option) in [("run", "seed"), ("report", "perfetto"), ("vm", "kernel")] {
        let page = read(&format!("inflight-race-{command}.1"));
        assert!(page.contains(option), "{command}: --{option} is described");
    }
    for own in ["guard", "worker", "play", "raw-server", "manual"] {
        assert!(
            !pages.join(format!("inflight-race-{own}.1")).exists(),
            "{own} is nobody's to call"
        );
    }
}

#[test]
fn shells_complete_its_commands() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = race(folder.path(), &["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(output.status.success() && script.contains("perfetto"), "{shell}");
        if shell == "bash" {
            let file = folder.path().join("script");
            std::fs::write(&file, script).unwrap();
            let checked = Command::new("bash").arg("-n").arg(&file).stdin(Stdio::null()).status();
            assert!(checked.unwrap().success());
        }
    }
    let output = race(folder.path(), &["completions", "dos"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}
