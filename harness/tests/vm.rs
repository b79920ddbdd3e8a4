//! Runs in a machine: what is wrong with it is said in one line, everything else is as a native run, and no QEMU is
//! left behind. A small program plays QEMU's part; the last test boots a real kernel if one is in the cache.

mod support;

use inflight_race::kit::pause::Pause;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use inflight_race::run::guest::Guest;
use inflight_race::run::results;
use inflight_race::vm::source;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{PROGRAM, text};

const UP: &str = r##"echo '{"guest":"up","kernel":{"release":"6.1.0-x","build":"#1 SMP Debian 6.1.192-2 (x)","machine":"x86_64"},"lacks":[]}'"##;

/// A folder with a kernel that nobody boots, and a QEMU that does what a test wants.
struct Setup {
    folder: tempfile::TempDir,
}

impl Setup {
    /// `script` finds the console's file in `$console`.
    fn new(script: &str) -> Setup {
        let setup = Setup { folder: tempfile::tempdir().unwrap() };
        let mut header = vec![0; 0x300];
        header[0x202..0x206].copy_from_slice(b"HdrS");
        header[0x20E] = 0x20;
        header[0x220..0x22C].copy_from_slice(b"6.1.0-x (me)");
        fs::write(setup.at("vmlinuz"), header).unwrap();
        let start = "console=$(echo \"$*\" | sed 's/.*id=console,path=\\([^ ]*\\).*/\\1/')\n: >\"$console\"\n";
        fs::write(setup.at("qemu"), format!("#!/bin/sh\n{start}{script}\n")).unwrap();
        fs::set_permissions(setup.at("qemu"), fs::Permissions::from_mode(0o755)).unwrap();
        setup
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, kernel: &str, case: &str) -> Command {
        let mut command = self.command_of(kernel);
        command.args(["--results", "results"]);
        command.args(["--", "run", case, "--bound", "1", "--seed", "5"]);
        command
    }

    fn command_of(&self, kernel: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["vm", "--accel", "tcg", "--kernel", kernel]);
        command.current_dir(self.folder.path()).env("INFLIGHT_QEMU", self.at("qemu"));
        command.env("INFLIGHT_KERNELS", self.at("cache")).env("INFLIGHT", "/bin/true");
        command
    }

    fn run(&self, case: &str) -> Output {
        self.command("vmlinuz", case).output().unwrap()
    }

    /// Waits until the fake QEMU has left its process id in the file `pid`.
    fn qemu(&self) -> i32 {
        wait_for("QEMU's start", || {
            fs::read_to_string(self.at("pid")).ok()?.strip_suffix('\n')?.parse().ok()
        })
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    let mut pause = Pause::default();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} was waited for in vain");
        pause.rest();
    }
}

fn wait_gone(pid: i32) {
    let stat = format!("/proc/{pid}/stat");
    wait_for("QEMU's end", || {
        let stat = fs::read_to_string(&stat).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z")).then_some(())
    });
}

/// Runs a case of three variants and expects it to be BROKEN for this reason.
fn broken(script: &str, reason: &str) -> Setup {
    let setup = Setup::new(script);
    let output = setup.run("SP3");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains(reason), "{}", text(&output));
    let run = results::read_run(&setup.at("results")).unwrap();
    assert!(run.variants.len() > 1, "{run:?}");
    for entry in &run.variants {
        assert_eq!(entry.verdict.word(), "BROKEN");
        assert!(entry.verdict.detail().contains(reason), "{entry:?}");
    }
    setup
}

/// Harm comes first: the kernel under test died while it was raced, which is a FAIL with its last words.
#[test]
fn a_guest_that_panics_has_failed_and_its_console_is_kept() {
    let console =
        "[ 1.0] up\n[ 8.0] BUG: KASAN: as told\n[ 9.0] Kernel panic - not syncing: as told\n";
    let script = format!("{UP}\nprintf '{}' >\"$console\"", console.replace('\n', "\\r\\n"));
    let setup = Setup::new(&script);
    let output = setup.run("SP3");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("BUG: KASAN: as told"), "{}", text(&output));
    let run = results::read_run(&setup.at("results")).unwrap();
    let words: Vec<_> = run.variants.iter().map(|entry| entry.verdict.word()).collect();
    assert_eq!(words, ["FAIL", "BROKEN", "BROKEN"]);
    assert_eq!(run.variants[0].verdict.detail(), "KERNEL-LOG");
    assert_eq!(fs::read_to_string(setup.at("results/console.log")).unwrap(), console);
}

/// So it is when everything had been played.
#[test]
fn a_guest_that_panics_at_the_end_has_failed() {
    let panic = "printf 'Kernel panic - not syncing: late\\n' >>\"$console\"";
    let setup = Setup::new(&one_variant(panic));
    let output = setup.run("FK1:store/uring/anon");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("Kernel panic - not syncing: late"), "{}", text(&output));
}

/// A kernel that does not boot was not raced: nothing is told of it.
#[test]
fn a_guest_that_panics_at_boot_is_broken() {
    let panic = "printf 'Kernel panic - not syncing: early\\n' >\"$console\"";
    let reason = "the guest panicked: Kernel panic - not syncing: early";
    let setup = broken(panic, reason);
    let output = setup.command_of("vmlinuz").args(["--", "exec", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains(reason), "{}", text(&output));
}

#[test]
fn a_guest_that_hangs_is_ended() {
    let script = format!("{UP}\necho $$ >pid\nexec sleep 1000");
    let setup = broken(&script, "nothing was heard of the guest for");
    wait_gone(setup.qemu());
}

#[test]
fn a_line_that_is_cut_is_not_taken_for_silence() {
    let script = format!("{UP}\nprintf '{{\"line\":\"fini'");
    broken(&script, "a line from the guest was cut or garbled: '{\"line\":\"fini'");
}

#[test]
fn a_machine_that_does_not_start_says_why() {
    // It may not even have come to make the file for the console.
    for console in ["", "rm -f \"$console\"\n"] {
        let script = format!("{console}echo 'qemu: no such thing' >&2\nexit 1");
        broken(&script, "the machine ended: qemu: no such thing");
    }
}

#[test]
fn a_run_that_ends_early_is_broken() {
    let script = format!("{UP}\necho '{{\"guest\":\"ended\",\"code\":101}}'");
    broken(&script, "the run in the guest ended with exit code 101");
}

/// A guest that plays one variant, with harm, and then does what `end` says.
fn one_variant(end: &str) -> String {
    let played = r#"{"stop":null,"faults":[{"class":"LOST","text":"parent: byte 0: 512 of 512 bytes are poison (never written); legal: as told"}],"notes":[],"events":[],"records":[],"gate_start_ns":0,"seconds":0.5,"control_seconds":0.5}"#;
    format!(
        "{UP}\necho '{{\"line\":\"started\",\"number\":0}}'\n\
         printf '%s\\r\\n' '{{\"line\":\"finished\",\"number\":0,\"played\":{played}}}'\n{end}"
    )
}

#[test]
fn a_guest_that_ends_badly_behind_its_last_variant_is_broken() {
    let setup = Setup::new(&one_variant("echo '{\"guest\":\"ended\",\"code\":3}'"));
    let output = setup.run("FK1:store/uring/anon");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("ended with exit code 3"), "{}", text(&output));
    let run = results::read_run(&setup.at("results")).unwrap();
    assert_eq!(run.variants[0].verdict.word(), "XFAIL", "{}", text(&output));
}

#[test]
fn a_table_of_kernels_shows_this_invocation_and_says_what_is_missing() {
    let setup = Setup::new(&one_variant("echo '{\"guest\":\"ended\",\"code\":0}'"));
    let case = "FK1:store/uring/anon";
    let kernels = |kernel: &str, case: &str, keep: &[&str]| {
        let like = setup.command("vmlinuz", "FK1");
        let envs = like.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let mut command = Command::new(PROGRAM);
        command.args(["kernels", "--accel", "tcg", "--results", "table", "--kernel", kernel]);
        command.args(keep).arg(case).current_dir(setup.folder.path()).envs(envs).output().unwrap()
    };
    let output = kernels("vmlinuz", case, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("FK1 fork-touch  LOST"), "{}", text(&output));

    // The same kernel cannot be booted any more: what it did before is shown only when that is asked for.
    fs::remove_file(setup.at("qemu")).unwrap();
    let output = kernels("vmlinuz", case, &["--keep"]);
    assert!(text(&output).contains("FK1 fork-touch  LOST"), "{}", text(&output));
    let output = kernels("vmlinuz", "FK1:store/aio/anon", &["--keep"]);
    assert!(text(&output).contains("not run on vmlinuz (inflight)"), "{}", text(&output));
    let output = kernels("vmlinuz", case, &[]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(text(&output).contains("not run on vmlinuz (inflight)"), "{}", text(&output));
    assert!(!text(&output).contains("LOST"), "{}", text(&output));
}

#[test]
fn a_whole_run_is_as_a_native_one_and_judged_by_the_guests_kernel() {
    let script = one_variant("echo '{\"guest\":\"ended\",\"code\":0}'");
    let setup = Setup::new(&script);
    let output = setup.run("FK1:store/uring/anon");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let run = results::read_run(&setup.at("results")).unwrap();
    assert_eq!((&*run.kernel.release, run.vm), ("6.1.0-x", Some(Guest::of("vmlinuz"))));
    assert_eq!(run.variants[0].verdict.word(), "XFAIL", "{}", text(&output));
    let wanted = "INFLIGHT=/bin/true inflight-race vm --kernel vmlinuz -- run FK1:store/uring/anon --on inflight --seed 5";
    assert_eq!(run.variants[0].repro, wanted);
    let again = ["replay", "results/FK1/store_uring_anon.json"];
    let mut replay = setup.command("vmlinuz", "FK1");
    let replay = Command::new(PROGRAM)
        .args(again)
        .current_dir(setup.folder.path())
        .envs(replay.env("X", "").get_envs().filter_map(|(name, value)| Some((name, value?))))
        .output()
        .unwrap();
    assert_eq!(replay.status.code(), Some(0), "{}", text(&replay));
    assert!(text(&replay).contains("6.1.0-x"), "{}", text(&replay));
}

#[test]
fn what_cannot_be_run_is_said_in_one_line() {
    let setup = Setup::new(UP);
    let not_run = |mut command: Command, wanted: &str| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{}", text(&output));
        let error = String::from_utf8(output.stderr.clone()).unwrap();
        assert!(error.contains(wanted), "{}", text(&output));
        assert_eq!((error.lines().count(), output.stdout.len()), (1, 0), "{}", text(&output));
    };
    let mut without = setup.command("vmlinuz", "FK1");
    without.env("INFLIGHT_QEMU", "/nowhere/qemu");
    not_run(without, "install qemu-system-x86 or set $INFLIGHT_QEMU");
    let absent = setup.command("debian:6.1", "FK1");
    not_run(absent, "`scripts/kernels get 6.1` brings it");
    not_run(setup.command("nothing", "FK1"), "kernel nothing: No such file");
    not_run(setup.command("qemu", "FK1"), "kernel qemu is none for x86: no setup header");

    let modules = setup.at("lib/modules/6.1.0-x");
    fs::create_dir_all(&modules).unwrap();
    not_run(setup.command("vmlinuz", "FK1"), "has no modules.dep; `depmod 6.1.0-x` makes it");
    fs::write(modules.join("modules.dep"), "kernel/loop.ko:\n").unwrap();
    not_run(
        setup.command("vmlinuz", "FK1"),
        "the kernel 6.1.0-x has no fuse, neither built in nor in",
    );
    fs::remove_dir_all(setup.at("lib")).unwrap();

    let unfit = r#"echo '{"guest":"unfit","reason":"the kernel 6.1.0-x has no FUSE"}'"#;
    not_run(Setup::new(unfit).command("vmlinuz", "FK1"), "has no FUSE");
}

#[test]
fn a_wrong_command_for_the_guest_is_a_usage_error() {
    let setup = Setup::new(UP);
    for (words, wanted) in [
        (&["list"][..], "unrecognized subcommand 'list'"),
        (&["run", "FK11"], "unknown case 'FK11'; nearest: FK1"),
    ] {
        let mut command = Command::new(PROGRAM);
        command.args(["vm", "--kernel", "vmlinuz", "--"]).args(words);
        let output = command.current_dir(setup.folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(wanted), "{}", text(&output));
    }
}

/// Any program runs under another kernel: what it wrote and its exit code are those of a native run.
#[test]
fn a_program_in_a_guest_writes_and_ends_as_it_would_here() {
    let wrote = |line: &str| format!(r#"echo '{{"guest":"wrote","line":"{line}"}}'"#);
    let ended = r#"echo '{"guest":"ended","code":3}'"#;
    let keep = "printf '%s\\n' \"$@\" >args";
    let script = [keep, UP, &wrote("one"), &wrote("two"), ended].join("\n");
    let setup = Setup::new(&script);
    let mut command = setup.command_of("vmlinuz");
    command.args(["--memory", "1025", "--smp", "3", "--append", "slub_debug=FZ"]);
    let output = command.args(["--", "exec", "true", "--flag"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "one\ntwo\n");
    let arguments = fs::read_to_string(setup.at("args")).unwrap();
    let arguments: Vec<_> = arguments.lines().collect();
    let after = |word: &str| arguments[arguments.iter().position(|&at| at == word).unwrap() + 1];
    assert_eq!((after("-m"), after("-smp")), ("1025", "3,sockets=3,cores=1,threads=1"));
    assert!(after("-append").ends_with(" slub_debug=FZ"), "{arguments:?}");
    assert!(arguments.contains(&"node,nodeid=1,cpus=1-2,memdev=memory1"), "{arguments:?}");
    assert!(arguments.contains(&"memory-backend-ram,id=memory1,size=513M"), "{arguments:?}");
}

/// A panic under a program is harm, told with the kernel's own words; a program that is not there is told at once.
#[test]
fn a_program_under_which_the_kernel_dies_has_failed() {
    let console = "printf 'up\\nBUG: KASAN: x\\nKernel panic - not syncing: x\\n' >>\"$console\"";
    let setup = Setup::new(&[UP, console].join("\n"));
    let output = setup.command_of("vmlinuz").args(["--", "exec", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("BUG: KASAN: x\n"));
    let output = setup.command_of("vmlinuz").args(["--", "exec", "./none"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    assert!(text(&output).contains("./none: no such program"), "{}", text(&output));
}

/// One's own kernel is named by its image, its vmlinux or its tree.
#[test]
fn a_tree_and_a_vmlinux_are_kernels() {
    let setup = Setup::new(UP);
    let release = |spec: &str| {
        let spec = setup.at(spec).display().to_string();
        source::Source::find(&Guest::of(&spec)).map(|source| source.release)
    };
    let missing = release("tree").unwrap_err().to_string();
    assert!(missing.contains("tree: No such file"), "{missing}");
    fs::create_dir_all(setup.at("tree/arch/x86/boot")).unwrap();
    let missing = release("tree").unwrap_err().to_string();
    assert!(missing.ends_with("tree has no arch/x86/boot/bzImage: `make bzImage`"), "{missing}");
    fs::copy(setup.at("vmlinuz"), setup.at("tree/arch/x86/boot/bzImage")).unwrap();
    assert_eq!(release("tree").unwrap(), "6.1.0-x");
    let banner = "%s version\0Linux version %s\0Linux version 6.19.0-rc1+ (me@here) #7 SMP\n\0";
    fs::write(setup.at("vmlinux"), [b"\x7FELF".as_slice(), banner.as_bytes()].concat()).unwrap();
    assert_eq!(release("vmlinux").unwrap(), "6.19.0-rc1+");
}

fn ended_by(signal: Signal) -> Option<i32> {
    let setup = Setup::new(&format!("{UP}\necho $$ >pid\nexec sleep 1000"));
    let mut command = setup.command("vmlinuz", "FK1");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child: Child = command.spawn().unwrap();
    let qemu = setup.qemu();
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
    let code = child.wait().unwrap().code();
    wait_gone(qemu);
    code
}

#[test]
fn no_qemu_is_left_after_a_kill() {
    assert_eq!(ended_by(Signal::SIGKILL), None);
}

#[test]
fn no_qemu_is_left_after_an_interrupt() {
    let code = ended_by(Signal::SIGINT);
    assert!(code.is_none() || code == Some(130), "{code:?}");
}

#[test]
fn a_cached_kernel_shows_the_loss_that_its_version_must_have() {
    let spec = ["debian:6.1", "debian:5.10"]
        .into_iter()
        .find(|spec| source::Source::find(&Guest::of(spec)).is_ok());
    let has_qemu = Command::new("qemu-system-x86_64").arg("--version").output().is_ok();
    let (Some(spec), true) = (spec, has_qemu) else {
        eprintln!("skipped: no QEMU, or no kernel in {}", source::cache().display());
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let output = boot(folder.path(), spec);
    if text(&output).contains("no `inflight` beside this program") {
        eprintln!("skipped: {}", text(&output));
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let run = results::read_run(&folder.path().join("results")).unwrap();
    let verdicts: Vec<_> = run.variants.iter().map(|entry| entry.verdict.word()).collect();
    assert_eq!(verdicts, ["XFAIL"; 3], "{}", text(&output));
}

fn boot(folder: &Path, spec: &str) -> Output {
    let arguments = ["vm", "--accel", "tcg", "--kernel", spec, "--results", "results", "--"];
    let run = ["run", "FK1:store/uring/anon", "--repeat", "3"];
    Command::new(PROGRAM).args(arguments).args(run).current_dir(folder).output().unwrap()
}
