//! Documents whose commands are run: blocks of the kind `console`, in one shell, from top to bottom, and what they print is
//! compared with what is shown.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// For all of a document, in seconds: timeout(1) ends what hangs.
const BOUND: &str = "240";
/// Between what two commands print.
const MARK: &str = "@@@@";

/// A command of the document, and what it shows as its output.
pub struct Step {
    /// As it is typed.
    pub command: String,
    /// Its lines; `...` stands for anything, alone on a line for any number of lines.
    pub shown: Vec<String>,
}

/// What stands behind `$` and `>` in blocks of the kind `console`.
pub fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        if let Some(kind) = line.strip_prefix("```") {
            inside = kind == "console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            steps.push(Step { command: command.to_owned(), shown: Vec::new() });
        } else if let Some(step) = steps.last_mut().filter(|_| inside) {
            match line
                .strip_prefix("> ")
                .or_else(|| line.strip_prefix('>').filter(|s| s.is_empty()))
            {
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
pub fn all_like(lines: &[&str], shown: &[String]) -> bool {
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

/// Runs the commands in `folder`, with programs of `path` first and these variables, and compares.
///
/// # Panics
/// When one prints what is not shown, or they take too long.
pub fn play(document: &str, folder: &Path, path: &str, variables: &[(&str, PathBuf)]) {
    let steps = steps(document);
    // The next command may ask for the exit code of this one.
    let mark = format!("code=$?; printf '\\n{MARK}\\n'; (exit $code)\n");
    let script: String = steps.iter().map(|step| format!("{}\n{mark}", step.command)).collect();
    let others = std::env::var("PATH").unwrap_or_default();
    let out = Command::new("timeout")
        .args([BOUND, "bash", "-c", &format!("exec 2>&1\n{script}")])
        .current_dir(folder)
        .env("PATH", format!("{path}:{others}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .envs(variables.iter().cloned())
        .stdin(Stdio::null())
        .output()
        .expect("bash");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.code() != Some(124), "it took longer than {BOUND} s: {said}");
    let mark = format!("\n{MARK}\n");
    let parts: Vec<&str> = said.split(&*mark).collect();
    assert_eq!(parts.len(), steps.len() + 1, "{}: {said}", out.status);
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
