//! What cannot be done is refused with its reason: exit code 2 for a wrong command, NOTRUN (4) for a machine or
//! target that cannot, BROKEN (3) for a setup that failed. Never a pass.

mod support;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use nix::mount::{MsFlags, mount};
use support::{PROGRAM, Unmount, inflight, is_root, race, skip, text};

/// Runs one variant that needs nothing on a directory.
fn on(folder: &Path, target: &str) -> Output {
    let arguments = ["run", "ST1:fork", "--time", "1s", "--on", target, "--scratch", "."];
    race(folder, &arguments).output().unwrap()
}

/// Everything was NOTRUN, for this reason.
fn assert_notrun(output: &Output, reason: &str) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("NOTRUN") && said.contains(reason), "wanted '{reason}': {said}");
    assert!(!said.contains("PASS"), "{said}");
}

/// Mounts a small tmpfs with these options.
fn tmpfs(at: &Path, options: &str, flags: MsFlags) -> Unmount {
    std::fs::create_dir(at).unwrap();
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options)).unwrap();
    Unmount(at.to_owned())
}

#[test]
fn a_read_only_target_is_not_run() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let _mount = tmpfs(&folder.path().join("ro"), "size=1m", MsFlags::MS_RDONLY);
    assert_notrun(&on(folder.path(), "./ro"), "cannot make a folder in it: Read-only file system");
}

#[test]
fn a_full_target_is_not_run() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let _mount = tmpfs(&folder.path().join("full"), "size=4k", MsFlags::empty());
    assert_notrun(&on(folder.path(), "./full"), "the target is full");
    let stress = ["run", "ST1:all", "--on", "./full", "--scratch", "."];
    assert_notrun(&race(folder.path(), &stress).output().unwrap(), "the target is full");
}

#[test]
fn without_root_what_needs_it_is_not_run() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The build may lie where others cannot look.
    let program = folder.path().join("inflight-race");
    std::fs::copy(PROGRAM, &program).unwrap();
    nix::unistd::chown(folder.path(), Some(65534.into()), None).unwrap();
    for target in ["ext4", "tmpfs", "overlay"] {
        let output = Command::new(&program)
            .args(["run", "ST1:fork", "--time", "1s", "--on", target, "--scratch", "."])
            .current_dir(folder.path())
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        assert_notrun(&output, "needs root");
    }
}

#[test]
fn missing_programs_are_named() {
    let folder = tempfile::tempdir().unwrap();
    // Programs are looked for beside it and one folder further up.
    let deep = folder.path().join("a/b");
    std::fs::create_dir_all(&deep).unwrap();
    let program = deep.join("inflight-race");
    std::fs::copy(PROGRAM, &program).unwrap();
    let bare = |target: &str, inflight: Option<&Path>| {
        let mut command = Command::new(&program);
        command.args(["run", "ST1:fork", "--time", "1s", "--on", target, "--scratch", "."]);
        command.current_dir(folder.path()).env("PATH", "/nonexistent").env_remove("INFLIGHT");
        command.envs(inflight.map(|path| ("INFLIGHT", path)));
        command.output().unwrap()
    };
    assert_notrun(&bare("inflight", None), "no `inflight` beside this program nor in $PATH");
    assert_notrun(&bare("inflight", Some(Path::new("/no/such"))), "/no/such is not installed");
    let Some(inflight) = inflight() else { return };
    for (target, tool) in [("xfs", "mkfs.xfs"), ("btrfs", "mkfs.btrfs"), ("ext4", "mkfs.ext4")] {
        assert_notrun(&bare(target, Some(&inflight)), &format!("{tool} is not installed"));
    }
}

#[test]
fn a_wrong_mount_option_is_one_usage_error() {
    let Some(inflight) = inflight() else { return };
    let folder = tempfile::tempdir().unwrap();
    let with = |words: &[&str]| {
        let mut command = race(folder.path(), &["run", "-g", "quick", "--scratch", "."]);
        command.args(words).env("INFLIGHT", &inflight).output().unwrap()
    };
    let bindfs = "bindfs -f {dir} {}";
    for (words, wanted) in [
        (&["-o", "writebak"][..], "-o writebak: unknown mount option 'writebak'; did you mean"),
        (
            &["-o", "read=fast", "--on", "ext4"],
            "-o read=fast: mount option 'read': 'fast' is not auto",
        ),
        (&["-o", "noatime", "--on", "tmpfs"], "options of Inflight mounts, and tmpfs is none"),
        (&["-o", "noatime", "--on", "."], "is none; leave -o out"),
        (&["-o", "max_read=all", "--server", bindfs], "max_read=all: not a number of bytes"),
        (&["-o", "noatme", "--server", bindfs], "the kernel does not know 'noatme'"),
        (&["--mode", "stress"], "--mode stress: not of FK1"),
    ] {
        let output = with(words);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(wanted), "wanted '{wanted}': {said}");
        assert_eq!(said.trim().lines().count(), 3, "status, nothing, and one line: {said}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "nothing was mounted or written: {left:?}");
}

#[test]
fn missing_devices_are_named() {
    let Some(inflight) = inflight() else { return };
    let folder = tempfile::tempdir().unwrap();
    // A /dev with these devices alone, in a mount namespace of the test's own.
    let with = |devices: &str, target: &str| {
        let script = format!(
            "mkdir -p dev && cd dev && for d in null urandom {devices}; do cp -a /dev/$d . || exit 77; done && \
             cd .. && mount --bind dev /dev && exec \"$@\""
        );
        Command::new("unshare")
            .args(["-m", "sh", "-c", &script, "sh", PROGRAM])
            .args(["run", "ST1:fork", "--time", "1s", "--on", target])
            .args(["--scratch", "."])
            .current_dir(folder.path())
            .env("INFLIGHT", &inflight)
            .output()
    };
    let Ok(output) = with("", "inflight") else { return skip("no unshare") };
    if output.status.code() == Some(77) {
        return skip("devices cannot be made here");
    }
    assert_notrun(&output, "/dev/fuse: No such file or directory");
    assert_notrun(&with("fuse", "ext4").unwrap(), "/dev/loop-control: No such file or directory");
}

#[test]
fn a_release_by_the_watchdog_is_broken() {
    let Some(inflight) = inflight() else { return };
    let folder = tempfile::tempdir().unwrap();
    let output = race(folder.path(), &["run", "META5", "--scratch", "."])
        .env("INFLIGHT", inflight)
        .output()
        .unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("BROKEN") && said.contains("watchdog released a request"), "{said}");
}

#[test]
fn results_that_cannot_be_read_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("newer.json", r#"{"version":99,"entry":{}}"#);
    write("other.json", r#"{"name":"something else"}"#);
    for (file, wanted) in [
        ("newer.json", "newer.json: results of version 99, this program reads version 1"),
        ("other.json", "other.json: not a result of inflight-race"),
        ("none.json", "none.json: No such file"),
    ] {
        for command in ["replay", "report"] {
            let output = race(folder.path(), &[command, file]).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{}", text(&output));
            assert!(text(&output).contains(wanted), "{command}: {}", text(&output));
        }
    }
    let output = race(folder.path(), &["demo", "--on", "ext5"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    let output = race(folder.path(), &["run", "ST1", "--time", "soon"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("a duration looks like"), "{}", text(&output));
}
