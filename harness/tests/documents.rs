//! The commands of fs/FAULTS.md do what the document shows.

mod common;

use common::{INFLIGHT, can_mount, lacking, text};
use std::path::Path;
use std::process::{Command, Stdio};

const DOCUMENT: &str = include_str!("../FAULTS.md");
/// For all of the document, in seconds: timeout(1) ends what hangs.
const BOUND: &str = "240";

/// A command of the document, and what it shows as its output.
struct Step {
    command: String,
    shown: Vec<String>,
}

/// What stands behind `$` and `>` in blocks of the kind `console`.
fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        if let Some(kind) = line.strip_prefix("```") {
            inside = kind == "console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            steps.push(Step { command: command.to_owned(), shown: Vec::new() });
        } else if let Some(step) = steps.last_mut().filter(|_| inside) {
            match line.strip_prefix("> ") {
                Some(more) => step.command = format!("{}\n{more}", step.command),
                None => step.shown.push(line.to_owned()),
            }
        }
    }
    steps
}

/// Whether a line is as it is shown, where `...` stands for anything.
fn is_like(line: &str, shown: &str) -> bool {
    let (first, rest) = shown.split_once("...").map_or((shown, None), |(a, b)| (a, Some(b)));
    let Some(after) = line.strip_prefix(first) else { return false };
    match rest {
        None => after.is_empty(),
        Some(rest) => (0..=after.len())
            .filter(|at| after.is_char_boundary(*at))
            .any(|at| is_like(&after[at..], rest)),
    }
}

/// The same for all lines; a line of `...` alone stands for any number of them.
fn all_like(lines: &[&str], shown: &[String]) -> bool {
    match shown.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=lines.len()).any(|skipped| all_like(&lines[skipped..], rest))
        }
        Some((first, rest)) => lines
            .split_first()
            .is_some_and(|(line, others)| is_like(line, first) && all_like(others, rest)),
    }
}

/// Ends the mount, whatever became of the commands.
struct Guard<'a>(&'a Path);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        use nix::mount::{MntFlags, umount2};
        let _ = umount2(&self.0.join("mnt"), MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
    }
}

#[test]
fn the_document_shows_what_happens() {
    if !can_mount() {
        return;
    }
    if Command::new("sqlite3").arg("--version").stdout(Stdio::null()).status().is_err() {
        return lacking("there is no sqlite3; apt-get install sqlite3");
    }
    let steps = steps(DOCUMENT);
    assert!(steps.len() > 50, "the document has its commands: {}", steps.len());
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let _guard = Guard(dir.path());
    let script: String =
        steps.iter().map(|step| format!("{}\nprintf '\\n@@@@\\n'\n", step.command)).collect();
    let bin = Path::new(INFLIGHT).parent().expect("a folder").display();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
    let out = Command::new("timeout")
        .args([BOUND, "bash", "-c", &format!("exec 2>&1\n{script}")])
        .current_dir(dir.path())
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .expect("bash");
    let said = text(&out.stdout);
    assert!(out.status.success(), "{}: {said}", out.status);
    let parts: Vec<&str> = said.split("\n@@@@\n").collect();
    assert_eq!(parts.len(), steps.len() + 1, "{said}");
    for (step, part) in steps.iter().zip(parts) {
        let lines: Vec<&str> = part.lines().collect();
        assert!(
            all_like(&lines, &step.shown),
            "$ {}\nis shown as {:#?}\nand said {lines:#?}",
            step.command,
            step.shown
        );
    }
}

#[test]
fn the_comparison_tells_a_difference() {
    let shown = ["...".to_owned(), "a...c".to_owned()];
    assert!(all_like(&["x", "abc"], &shown) && all_like(&["ac"], &shown));
    assert!(!all_like(&["abd"], &shown) && !all_like(&["abc", "x"], &shown));
}
