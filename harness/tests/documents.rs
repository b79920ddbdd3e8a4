//! The commands of the documents do what is shown there, in the order in which they stand.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{PROGRAM, console, inflight, lacking, toy_kernel};

/// A folder for the commands of a document. Whatever became of them, nothing stays mounted or running.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Servers that drop root's rights must get through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Place { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the commands of a document with our programs, the scripts, and what lies in `bin`; behind them with `more`.
    fn play(&self, document: &str, more: &str) {
        let programs = Path::new(PROGRAM).parent().unwrap().display();
        let (bin, scripts) = (self.at("bin"), root().join("scripts"));
        let path = format!("{programs}:{}:{}:{more}", bin.display(), scripts.display());
        let variables = [
            ("INFLIGHT_KERNELS", self.at("cache")),
            // What stands for the harness while kernels are bisected, where there is one.
            ("INFLIGHT_RACE", self.at("race")),
        ];
        console::play(document, self.folder.path(), &path, &variables);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        use nix::mount::{MntFlags, umount2};
        use nix::sys::signal::{Signal, kill};
        let pid = fs::read_to_string(self.at("pg/data/postmaster.pid")).unwrap_or_default();
        if let Some(pid) = pid.lines().next().and_then(|pid| pid.parse().ok()) {
            let _ = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mounts.lines().rev() {
            let at = Path::new(line.split(' ').nth(4).unwrap_or_default());
            if at.starts_with(self.folder.path()) {
                let _ = umount2(at, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
            }
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Whether a program is there; a test that needs it fails where it is not.
fn has(program: &str, package: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        lacking(&format!("there is no {program}; apt-get install {package}"));
    }
    found
}

/// The folder of PostgreSQL's programs, the newest: Debian keeps them out of $PATH, beside each other by version.
fn postgresql() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let bins = versions.map(|version| version.path().join("bin"));
    bins.filter(|bin| bin.join("initdb").is_file()).max()
}

#[test]
fn faults_of_a_disk_meet_sqlite() {
    let text = read("fs/FAULTS.md");
    let (first, _) = text.split_once("\n## PostgreSQL\n").expect("its chapter");
    assert!(console::steps(first).len() > 50, "the document has its commands");
    if inflight().is_some() && has("sqlite3", "sqlite3") {
        Place::new().play(first, "");
    }
}

#[test]
fn faults_of_a_disk_meet_postgresql() {
    let text = read("fs/FAULTS.md");
    let (_, second) = text.split_once("\n## PostgreSQL\n").expect("its chapter");
    assert!(console::steps(second).len() > 10, "the chapter has its commands");
    if inflight().is_none() {
        return;
    }
    match postgresql() {
        Some(bin) => Place::new().play(second, &bin.display().to_string()),
        None => lacking("there is no initdb below /usr/lib/postgresql; apt-get install postgresql"),
    }
}

/// Everything that the pages need, or none of it: `inflight-gate`, too, is built for the workspace.
fn place() -> Option<Place> {
    let programs = Path::new(PROGRAM).parent().unwrap();
    inflight()?;
    let gate = programs.join("inflight-gate");
    assert!(gate.is_file(), "cargo build -p inflight-gate, or cargo test --workspace");
    Some(Place::new())
}

#[test]
fn the_architecture_is_as_it_is_told() {
    if let Some(place) = place() {
        place.play(&read("docs/architecture.md"), "");
    }
}

#[test]
fn what_a_ci_system_is_told_to_run_is_run() {
    let text = read("docs/ci.md");
    let typed: Vec<String> = console::steps(&text).into_iter().map(|step| step.command).collect();
    let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let script = blocks.flat_map(str::lines).filter_map(|line| line.trim().strip_prefix("- "));
    let script: Vec<&str> = script.collect();
    assert!(script.len() > 5, "{script:?}");
    for line in script {
        assert!(typed.iter().any(|command| command == line), "not run by this page: {line}");
    }
    if let Some(place) = place() {
        place.play(&text, "");
    }
}

#[test]
fn servers_of_others_are_held_failed_and_raced() {
    if let Some(place) = place()
        && has("fuse-overlayfs", "fuse-overlayfs")
    {
        place.play(&read("docs/fuse-servers.md"), "");
    }
}

#[test]
fn helpers_have_the_names_that_xfstests_looks_for() {
    let Some(place) = place() else { return };
    let inflight = Path::new(PROGRAM).with_file_name("inflight");
    fs::create_dir(place.at("bin")).unwrap();
    for helper in ["mount", "mkfs", "fsck"] {
        let link = place.at("bin").join(format!("{helper}.fuse.inflight"));
        std::os::unix::fs::symlink(&inflight, link).unwrap();
    }
    place.play(&read("docs/xfstests.md"), "");
}

/// A tree of three files is the kernel's, of which the fourth change brings harm.
#[test]
fn bisection_finds_what_the_page_says() {
    let Some(place) = place() else { return };
    let tree = place.at("linux");
    toy_kernel::make(&tree, &["0", "0", "0", "0", "1", "1"]);
    for number in 1..=5 {
        toy_kernel::git(&tree, &["tag", &format!("v{number}"), &format!("c{number}")]);
    }
    toy_kernel::make_harness(&place.at("race"));
    fs::write(place.at("reproducer"), "").unwrap();
    place.play(&read("docs/kernel-bisection.md"), "");
}

/// Commands of the README that are shown and not typed, by how they begin, and why.
const SHOWN_ONLY: &[(&str, &str)] = &[
    (
        "scripts/demo",
        "builds, which takes minutes, and uses a network; it checks what it shows itself",
    ),
    ("scripts/test", "runs this test"),
    (
        "scripts/release",
        "builds static programs, which takes minutes; `scripts/test package` runs it",
    ),
    (
        "apt install",
        "changes the machine; `scripts/test package` installs the package and purges it",
    ),
    ("cargo install", "builds, which takes minutes"),
    (
        "mount -t fuse.inflight",
        "calls a helper in /sbin; fs/tests/lifecycle.rs calls the helper of this build",
    ),
    ("inflight-race mechanisms", "takes a minute; harness/tests/mechanisms.rs runs it"),
    ("inflight-race mutants", "needs a server with defects; `scripts/test mutants` runs it"),
    (
        "inflight-race vm",
        "needs a kernel that is downloaded, and minutes; harness/tests/vm.rs runs it",
    ),
    ("scripts/kernels bisect", "builds kernels; docs/kernel-bisection.md is run with a toy tree"),
    ("scripts/suites xfstests", "needs a checkout of xfstests that was built"),
];

#[test]
fn the_readme_does_what_it_shows() {
    let text = read("README.md");
    assert!(console::steps(&text).len() > 50, "the README has its commands");
    if let Some(place) = place()
        && has("fuse-overlayfs", "fuse-overlayfs")
        && has("bindfs", "bindfs")
        && has("mkfs.ext4", "e2fsprogs")
    {
        place.play(&text, "");
    }
}

/// Every command of the README is typed by the test above, or is in a block of the kind `sh` and in the list.
#[test]
fn what_the_readme_shows_and_no_test_types_has_its_reason() {
    let text = read("README.md");
    let mut fences = text.split("\n```");
    let before = fences.next().unwrap_or_default().to_owned();
    let parts: Vec<&str> = fences.collect();
    let (inside, outside): (Vec<_>, Vec<_>) =
        parts.iter().enumerate().partition(|(i, _)| i % 2 == 0);
    let prose = outside.into_iter().fold(before, |text, (_, part)| text + part);
    let indented = prose.lines().find(|line| line.starts_with("    "));
    assert_eq!(indented, None, "a block without a fence, which nobody looks at");

    let blocks = inside.into_iter().map(|(_, part)| part.split_once('\n').unwrap_or((part, "")));
    let (mut shown, mut kinds) = (Vec::new(), Vec::new());
    for (kind, block) in blocks {
        kinds.push(kind);
        if kind == "sh" {
            shown.extend(block.lines());
        }
    }
    assert!(kinds.iter().all(|kind| ["console", "sh", "text"].contains(kind)), "{kinds:?}");
    for line in &shown {
        let known = SHOWN_ONLY.iter().any(|(command, _)| line.starts_with(command));
        assert!(known, "neither typed nor in the list: {line}");
        let program = line.split(' ').next().unwrap_or_default();
        let is_there = !program.starts_with("scripts/") || root().join(program).is_file();
        assert!(is_there, "there is no {program}");
    }
    for (command, _) in SHOWN_ONLY {
        assert!(shown.iter().any(|line| line.starts_with(command)), "not shown: {command}");
    }
}

/// A page that no test runs would be believed all the same.
#[test]
fn every_page_is_run_or_has_nothing_to_run() {
    let own = include_str!("documents.rs");
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") && read(&format!("docs/{name}")).contains("```console") {
            assert!(own.contains(&format!("docs/{name}\"")), "no test runs docs/{name}");
        }
    }
}

#[test]
fn the_comparison_tells_a_difference() {
    let shown = ["...".to_owned(), "a...c".to_owned()];
    let is_like = |lines: &[&str]| console::all_like(lines, &shown);
    assert!(is_like(&["x", "abc"]) && is_like(&["ac"]));
    assert!(!is_like(&["abd"]) && !is_like(&["abc", "x"]));
}
