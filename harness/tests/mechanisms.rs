//! The table of mechanisms and the probe, on this kernel.

use std::io::IoSliceMut;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use inflight_race::target::programs;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use serde_json::Value;

/// The kernel counts everybody's pins: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs the program; `None` where the machine has no FUSE or we are not root.
fn output(arguments: &[&str]) -> Option<Value> {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: needs root and /dev/fuse");
        return None;
    }
    let _alone = ALONE.lock();
    Some(json(arguments))
}

/// What the program prints, which must succeed.
fn json(arguments: &[&str]) -> Value {
    let (code, text, shown) = ended(arguments);
    assert_eq!(code, Some(0), "{text}");
    shown
}

/// The exit code, all that was printed, and what of it is JSON.
fn ended(arguments: &[&str]) -> (Option<i32>, String, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inflight-race"));
    if let Ok(program) = programs::inflight() {
        command.env("INFLIGHT", program);
    }
    let output = command.args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    let all = format!("{text}\n{error}");
    (output.status.code(), all.clone(), serde_json::from_str(&text).expect(&all))
}

#[test]
fn what_the_table_expects_of_this_kernel_is_seen() {
    // The exit code says whether anything differs from the table.
    let Some(shown) = output(&["mechanisms", "--json"]) else { return };
    let rows = shown[0]["rows"].as_array().unwrap();
    let seen = rows.iter().filter(|row| row["outcome"].get("seen").is_some()).count();
    assert!(rows.len() > 60 && seen > 20, "{seen} of {} seen", rows.len());
}

/// Says to this program that it is to pin.
const PINS: &str = "INFLIGHT_TEST_PINS";

/// Not a test of anything: what [`Pinner`] starts, in a process of its own, since it keeps the lock of its address space.
#[test]
fn pins_pages_until_it_is_ended() {
    if std::env::var_os(PINS).is_none() {
        return;
    }
    // With whoever started it, however that ends.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    let (from, mut to) = (vec![1; 4 << 20], vec![0; 4 << 20]);
    loop {
        let remote = [RemoteIoVec { base: from.as_ptr() as usize, len: from.len() }];
        let local = &mut [IoSliceMut::new(&mut to)];
        process_vm_readv(nix::unistd::Pid::this(), local, &remote).unwrap();
    }
}

/// A process that pins pages and gives them back, all the time.
struct Pinner(Child);

impl Pinner {
    fn start() -> Pinner {
        let mut pinner = Command::new(std::env::current_exe().unwrap());
        pinner.args(["--exact", "pins_pages_until_it_is_ended"]).env(PINS, "1");
        Pinner(pinner.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Pinner {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// The counters are the machine's: what others pin is not taken for a call's, in a row of the table or in a check.
#[test]
fn pins_of_others_neither_fail_nor_pass_anything() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: needs root and /dev/fuse");
        return;
    }
    let _alone = ALONE.lock();
    let shown = |what: &str| {
        // vmsplice(2), which takes references, and process_vm_readv(2), which pins.
        let (code, text, shown) = ended(&["mechanisms", "--json", "2.5", "1.6"]);
        // 4: not one of them could be shown.
        assert!(matches!(code, Some(0 | 4)), "{text}");
        let rows = shown[0]["rows"].as_array().unwrap().clone();
        assert_eq!(rows.len(), 2, "{rows:?}");
        let seen = |row: &&Value| row["outcome"].get("seen").is_some();
        let not = |row: &&Value| {
            let reason = row["outcome"]["not"].as_str().unwrap_or_default();
            reason.contains("the kernel counts everybody's pins")
        };
        assert!(rows.iter().all(|row| seen(&row) || not(&row)), "{what}: {rows:?}");
    };
    let pinners = [Pinner::start(), Pinner::start()];
    shown("beside others that pin");
    // A page that is not pinned is not taken for one that is.
    let folder = tempfile::tempdir().unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_inflight-race"));
    run.args(["run", "ZP1:twice", "--scratch", ".", "--seed", "1"]).current_dir(folder.path());
    if let Ok(program) = programs::inflight() {
        run.env("INFLIGHT", program);
    }
    let ran = run.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(matches!(ran.status.code(), Some(0 | 5)), "{said}");
    assert!(!said.contains("FAIL"), "{said}");
    drop(pinners);
    // Whether anybody else pins now is not for this test to say.
    shown("when they have ended");
}

/// Runs `mechanisms` with no kernel in the cache; gives its exit code, and what it printed.
fn mechanisms(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inflight-race"));
    command.arg("mechanisms").args(arguments).env("INFLIGHT_KERNELS", "/no/such/cache");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn an_unknown_mechanism_is_named_before_any_machine_is_looked_for() {
    for arguments in [&["0.999"][..], &["--list", "0.999"], &["--kernel", "debian:6.1", "0.999"]] {
        let (code, _, error) = mechanisms(arguments);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains("no mechanism 0.999; nearest: 0.9"), "{error}");
        assert!(!error.contains("kernel"), "{error}");
    }
}

#[test]
fn kernels_that_are_not_there_are_not_a_success() {
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("document");
    let path = document.to_str().unwrap();
    for kernels in [&["--kernel=debian:6.1"][..], &["--kernel=debian:6.1", "--kernel=debian:7"]] {
        let arguments = [kernels, &["--json", "--markdown", path]].concat();
        let (code, text, error) = mechanisms(&arguments);
        assert_eq!((code, &*text), (Some(4), "[]\n"), "{error}");
        assert!(error.contains("debian:6.1: no kernel '6.1'"), "{error}");
        assert!(!document.exists(), "a document of nothing");
    }
}

#[test]
fn a_document_of_some_mechanisms_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("document");
    let (code, _, error) = mechanisms(&["0.1", "--markdown", document.to_str().unwrap()]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("cannot be used with") && !document.exists(), "{error}");
}

#[test]
fn a_list_is_of_what_was_asked_for_and_nothing_is_ignored() {
    let (code, text, error) = mechanisms(&["--list", "3.1", "4"]);
    let heads: Vec<_> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(code, Some(0), "{error}");
    assert!(heads.len() > 2 && heads[0].starts_with("3.1 "), "{text}");
    assert!(heads[1..].iter().all(|line| line.starts_with("4.")), "{text}");
    for other in ["--json", "--kernels", "--markdown", "--kernel=host", "--accel=tcg"] {
        assert_eq!(mechanisms(&["--list", other]).0, Some(2), "{other}");
    }
}

#[test]
fn a_probe_answers_every_question_with_evidence() {
    let folder = tempfile::tempdir().unwrap();
    let Some(found) = output(&["probe", "--json", folder.path().to_str().unwrap()]) else { return };
    let known = |seen: &Value| {
        let word = seen["word"].as_str().unwrap();
        assert!(!word.is_empty() && seen["evidence"].is_string(), "{seen}");
        word.to_owned()
    };
    assert!(["gone", "there", "not known"].contains(&known(&found["iter_pipe"]).as_str()));
    let splice = found["splice"].as_array().unwrap();
    assert_eq!(known(&splice[0][1]), "page cache", "a buffered splice");
    assert_eq!(splice.len(), 4);
    assert_eq!(found["registered"].as_array().unwrap().len(), 10);
    // Sampled answers say how often and how long.
    if !found["alignment"].is_null() {
        assert!(found["held"]["tries"].as_u64().unwrap() > 0 && found["held"]["seconds"].is_f64());
    }
    assert!(found["bugs"].as_array().unwrap().len() >= 2);
}
