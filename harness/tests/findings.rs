//! Each finding's C program builds without a warning and says of this kernel what it is for: its controls pass, so that a
//! `not ok` behind them is the kernel's.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{is_root, text};

fn findings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("findings")
}

fn build(name: &str, folder: &Path) -> PathBuf {
    let program = folder.join(name);
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"]).arg(&program);
    let output = cc.arg(findings().join(name).with_extension("c")).output().expect("cc");
    assert!(output.status.success(), "{}", text(&output));
    program
}

/// Exit code, and the results in the order of the plan: whether it is ok, and of what.
fn results(output: &Output) -> (i32, Vec<(bool, String)>) {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let plan = printed.lines().find_map(|line| line.strip_prefix("1..")).expect("a plan");
    let result = |line: &str| {
        let (ok, rest) = match line.strip_prefix("not ok ") {
            Some(rest) => (false, rest),
            None => (true, line.strip_prefix("ok ")?),
        };
        Some((ok, rest.split_once(' ')?.1.to_owned()))
    };
    let results: Vec<_> = printed.lines().filter_map(result).collect();
    assert_eq!(results.len().to_string(), plan, "{}", text(output));
    (output.status.code().expect("an exit code"), results)
}

/// Runs a program that mounts; its last result is about the kernel.
fn kernel_is_right(name: &str, arguments: &[&Path]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let program = build(name, folder.path());
    let output = Command::new("timeout").arg("100").arg(program).args(arguments).output().unwrap();
    let (code, results) = results(&output);
    let (last, controls) = results.split_last().expect("results");
    assert!(controls.len() > 0 && controls.iter().all(|(ok, _)| *ok), "{}", text(&output));
    assert!(controls.iter().all(|(_, what)| what.starts_with("control: ")), "{results:?}");
    assert_eq!(code, i32::from(!last.0), "{}", text(&output));
    last.0
}

/// `findings/truncate-async-write.md`: seen on every kernel from 5.10 to 7.2; where it is gone, the table of TR2 is to say so.
#[test]
fn a_truncate_that_overtakes_an_async_write_leaves_a_stale_size() {
    if is_root() {
        let right = kernel_is_right("truncate-async-write", &[]);
        eprintln!("this kernel is {}", if right { "right" } else { "wrong, as all known ones" });
    }
}

/// `findings/grow-under-direct-read.md`: the source is on an ext4 of the test's own.
#[test]
fn a_file_that_is_extended_under_a_direct_read_loses_it() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (image, dir) = (folder.path().join("ext4"), folder.path().join("mnt"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let run = |program: &str, arguments: &[&Path]| {
        let output = Command::new(program).args(arguments).output().expect(program);
        assert!(output.status.success(), "{program}: {}", text(&output));
    };
    run("mkfs.ext4", &[Path::new("-q"), &image]);
    run("mount", &[Path::new("-oloop"), &image, &dir]);
    let right = std::panic::catch_unwind(|| kernel_is_right("grow-under-direct-read", &[&dir]));
    run("umount", &[&dir]);
    let right = right.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    eprintln!("this kernel is {}", if right { "right" } else { "wrong, as all known ones" });
}
