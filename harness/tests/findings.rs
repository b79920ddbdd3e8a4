//! Each finding's C program builds without a warning and says of this kernel what it is for: its controls pass, so that a
//! `not ok` behind them is the kernel's.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use inflight_race::run::guest::Guest;
use inflight_race::vm::source;
use support::{PROGRAM, is_root, skip, text};

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
    assert!(!controls.is_empty() && controls.iter().all(|(ok, _)| *ok), "{}", text(&output));
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

/// `findings/punch-drops-store.md`: seen on every kernel from 5.10 to 7.3; where it is gone, the table of IV4 is to say so.
#[test]
fn a_punch_drops_a_store_and_an_older_one_is_back() {
    if is_root() {
        let right = kernel_is_right("punch-drops-store", &[]);
        eprintln!("this kernel is {}", if right { "right" } else { "wrong, as all known ones" });
    }
}

/// The same under another kernel, if there is one in the cache: the program needs nothing of this machine.
#[test]
fn the_programs_run_in_guests() {
    let known = ["debian:6.1.192", "debian:6.12.117", "debian:5.10.262"];
    let spec = known.into_iter().find(|spec| source::Source::find(&Guest::of(spec)).is_ok());
    let has_qemu = Command::new("qemu-system-x86_64").arg("--version").output().is_ok();
    let (Some(spec), true) = (spec, has_qemu) else {
        return skip("no QEMU, or none of the kernels that are known to be wrong in the cache");
    };
    let folder = tempfile::tempdir().unwrap();
    for name in ["truncate-async-write", "grow-under-direct-read", "punch-drops-store"] {
        let mut guest = Command::new(PROGRAM);
        guest.args(["vm", "--accel", "tcg", "--kernel", spec, "--", "exec"]);
        let output = guest.arg(build(name, folder.path())).output().unwrap();
        let (code, results) = results(&output);
        let (last, controls) = results.split_last().expect("results");
        assert!(controls.iter().all(|(ok, _)| *ok) && !last.0, "{spec}: {}", text(&output));
        assert_eq!(code, 1, "{}", text(&output));
    }
}

/// `findings/btrfs-direct-fault-fork.md` is a matter of luck: what is held is that all three threads run, and that a
/// hang is told with the stacks.
#[test]
fn direct_writes_faults_and_forks_on_btrfs_are_watched() {
    if !is_root() {
        return;
    }
    let volume = Volume::new(&["mkfs.btrfs", "-q"], 256);
    let program = build("btrfs-direct-fault-fork", volume.folder.path());
    let output = Command::new(program).arg(&volume.dir).arg("15").output().unwrap();
    let (code, results) = results(&output);
    let printed = String::from_utf8_lossy(&output.stdout);
    for what in ["direct writes", "loads", "forks"] {
        let count = printed.lines().find_map(|line| line.strip_prefix(&format!("# {what}: ")));
        let count: u64 = count.expect(what).parse().expect("a number");
        assert!(count > 0, "{}", text(&output));
    }
    assert_eq!(code, i32::from(!results[0].0), "{}", text(&output));
    assert_eq!(printed.contains("btrfs_direct_write"), code == 1, "{}", text(&output));
}

/// `findings/grow-under-direct-read.md`: the source is on an ext4 of the test's own.
#[test]
fn a_file_that_is_extended_under_a_direct_read_loses_it() {
    if !is_root() {
        return;
    }
    let volume = Volume::new(&["mkfs.ext4", "-q"], 64);
    let right = kernel_is_right("grow-under-direct-read", &[&volume.dir]);
    eprintln!("this kernel is {}", if right { "right" } else { "wrong, as all known ones" });
}

/// A filesystem in a file, mounted by a loop device; unmounted when dropped.
struct Volume {
    folder: tempfile::TempDir,
    dir: PathBuf,
}

impl Volume {
    fn new(mkfs: &[&str], mib: u64) -> Volume {
        let folder = tempfile::tempdir().unwrap();
        let (image, dir) = (folder.path().join("image"), folder.path().join("mnt"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&dir));
        Volume { folder, dir }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        run(Command::new("umount").arg(&self.dir));
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("a program");
    assert!(output.status.success(), "{command:?}: {}", text(&output));
}
