//! The programs that make a target, and what they take.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail, ensure};

use crate::kit::verdict::not_run;
use crate::target::Target;

/// The `inflight` program: `$INFLIGHT`, the one beside this program, or the one in `$PATH`.
///
/// # Errors
/// NOTRUN when there is none.
pub fn inflight() -> anyhow::Result<PathBuf> {
    tool("inflight", "INFLIGHT")
}

/// Asks whoever will mount a target whether it takes these options, before anything is mounted: a misspelt one is one error,
/// and not one of each variant. Where that program is missing, nothing is said: the variants say that.
///
/// # Errors
/// What it says of them; or the target is not mounted with options.
pub fn check_options(target: &Target, options: &str) -> anyhow::Result<()> {
    if options.is_empty() {
        return Ok(());
    }
    ensure!(
        target.is_gated(),
        "-o {options}: these are options of Inflight mounts, and {} is none; leave -o out",
        target.name()
    );
    let (name, variable) = match target {
        Target::Server(_) => ("inflight-gate", "INFLIGHT_GATE"),
        _ => ("inflight", "INFLIGHT"),
    };
    let Ok(program) = tool(name, variable) else { return Ok(()) };
    let mut command = Command::new(program);
    match target {
        Target::Server(_) => command.args(["--fake", "-o", options, "/", "--", "true", "{}"]),
        _ => command.args(["mount", "--fake", "--force", "-o", options, "/dev/null", "/"]),
    };
    let Ok(output) = command.stdin(Stdio::null()).output() else { return Ok(()) };
    let said = String::from_utf8_lossy(&output.stderr);
    // An older program does not know how to be asked.
    if output.status.success() || said.contains("unexpected argument '--fake'") {
        return Ok(());
    }
    bail!("-o {options}: {}", said.trim().trim_start_matches(name).trim_start_matches(": "))
}

/// A program of this project.
pub(super) fn tool(name: &str, variable: &str) -> anyhow::Result<PathBuf> {
    if let Some(program) = std::env::var_os(variable) {
        return Ok(PathBuf::from(program));
    }
    let own = std::env::current_exe().context("our own path")?;
    let beside = own.parent().into_iter().chain(own.parent().and_then(Path::parent));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> =
        beside.map(Path::to_owned).chain(std::env::split_paths(&path)).collect();
    let found = folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| {
        not_run(format!(
            "no `{name}` beside this program nor in $PATH; build it, or set ${variable}"
        ))
    })
}

/// The program that makes a target's filesystem on its loop device, if it lies on one.
pub fn mkfs(target: &Target) -> Option<&'static str> {
    match target {
        Target::Ext4 => Some("mkfs.ext4"),
        Target::Xfs => Some("mkfs.xfs"),
        Target::Btrfs => Some("mkfs.btrfs"),
        Target::Vfat => Some("mkfs.vfat"),
        Target::Inflight | Target::Tmpfs | Target::Overlay | Target::Dir(_) | Target::Server(_) => {
            None
        }
    }
}

/// Runs a program to its end; its standard error is the error.
pub(super) fn run(command: &mut Command) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(not_run(format!("{name} is not installed; scripts/setup --all brings it")));
        }
        other => other.with_context(|| name.clone())?,
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{name}: {}: {}", output.status, text.trim());
    }
    Ok(output)
}
