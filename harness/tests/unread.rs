//! Whoever reads the output may stop, as `head` does.

mod support;

use std::process::Command;

use support::PROGRAM;

#[test]
fn nobody_panics_when_nobody_reads() {
    let folder = tempfile::tempdir().unwrap();
    for line in [
        "list",
        "list --variants",
        "list --matrix",
        "list --json",
        "mechanisms",
        "--help",
        "run --help",
    ] {
        for redirect in ["", "2>&1"] {
            for reader in ["true", "head -c1"] {
                let script =
                    format!("{PROGRAM} {line} {redirect} | {reader}; exit ${{PIPESTATUS[0]}}");
                let output = Command::new("bash")
                    .args(["-c", &script])
                    .current_dir(&folder)
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(0), "{line} {redirect} | {reader}: {said}");
            }
        }
    }
}
