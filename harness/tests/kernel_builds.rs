//! `scripts/kernels build` and `bisect`: a small kernel of a tree that stays as it is, and the commit that brought harm. A
//! tree of three files plays the kernel's part, a shell script the harness'.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Configures like `make allnoconfig` with KCONFIG_ALLCONFIG, but for one option that it does not take, and builds an image
/// that says what `verdict` says; `broken` does not build.
const MAKEFILE: &str = "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 0\n\
    allnoconfig:\n\tgrep -v CONFIG_SYSVIPC $(KCONFIG_ALLCONFIG) >$(O)/.config\n\
    bzImage:\n\ttest ! -e broken\n\tmkdir -p $(O)/arch/x86/boot\n\tcp verdict $(O)/arch/x86/boot/bzImage\n";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// A tree with one commit for each verdict: an exit code of the harness, or `broken`.
    fn new(verdicts: &[&str]) -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(place.tree()).unwrap();
        place.git(&["init", "-q", "-b", "main"]);
        fs::write(place.tree().join("Kconfig"), "").unwrap();
        fs::write(place.tree().join("Makefile"), MAKEFILE).unwrap();
        for (number, verdict) in verdicts.iter().enumerate() {
            fs::write(place.tree().join("verdict"), verdict).unwrap();
            fs::write(place.tree().join("number"), number.to_string()).unwrap();
            let _ = fs::remove_file(place.tree().join("broken"));
            if *verdict == "broken" {
                fs::write(place.tree().join("broken"), "").unwrap();
            }
            place.git(&["add", "-A"]);
            place.git(&["commit", "-q", "-m", &format!("change {number}")]);
            place.git(&["tag", &format!("c{number}")]);
        }
        let harness = "#!/bin/sh\necho \"$@\" >>\"$(dirname \"$0\")/calls\"\nexit \"$(cat \"$3/arch/x86/boot/bzImage\")\"\n";
        fs::write(place.at("race"), harness).unwrap();
        fs::set_permissions(place.at("race"), fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tree(&self) -> PathBuf {
        self.at("tree")
    }

    fn git(&self, words: &[&str]) -> String {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.tree()).args(["-c", "user.name=a", "-c", "user.email=a@b"]);
        let output = git.args(words).output().expect("git");
        assert!(output.status.success(), "{words:?}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn kernels(&self, words: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kernels");
        let mut kernels = Command::new(script);
        kernels.env("INFLIGHT_KERNELS", self.at("cache")).env("INFLIGHT_RACE", self.at("race"));
        kernels.current_dir(self.folder.path()).args(words).output().expect("scripts/kernels")
    }
}

fn text(output: &Output) -> String {
    let both = [&*output.stdout, &*output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Steps that cannot be built or judged are left out, and the table of expected failures is not asked.
#[test]
fn bisect_finds_the_commit_that_brought_harm_and_leaves_the_tree_alone() {
    let place = Place::new(&["0", "0", "broken", "3", "0", "1", "1"]);
    let before = (place.git(&["rev-parse", "HEAD"]), place.git(&["status", "--porcelain"]));
    let words = ["bisect", "c0", "c6", "--tree", "tree", "--", "run", "TR2", "--on", "ext4"];
    let output = place.kernels(&words);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let wanted = format!("first bad commit: [{}] change 5", place.git(&["rev-parse", "c5"]));
    assert!(text(&output).contains(&wanted), "{}", text(&output));
    let after = (place.git(&["rev-parse", "HEAD"]), place.git(&["status", "--porcelain"]));
    assert_eq!(before, after);
    assert_eq!(place.git(&["worktree", "list"]).lines().count(), 1);
    let calls = fs::read_to_string(place.at("calls")).unwrap();
    for call in calls.lines() {
        assert!(call.starts_with("vm --kernel ") && call.ends_with(" -- run TR2 --on ext4 --raw"));
    }
}

/// What cannot be told apart is said to be so.
#[test]
fn bisect_says_when_nothing_can_be_told() {
    let place = Place::new(&["0", "3", "broken", "1"]);
    let output = place.kernels(&["bisect", "c0", "c3", "--tree", "tree", "--", "exec", "./x"]);
    assert_ne!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("no single commit"), "{}", text(&output));
    assert!(!fs::read_to_string(place.at("calls")).unwrap().contains("--raw"));
    let output = place.kernels(&["bisect", "c0", "nothing", "--tree", "tree", "--", "exec", "./x"]);
    assert!(text(&output).contains("kernels: bad commit nothing: "), "{}", text(&output));
}

/// What the tree does not take is named; what was built in place is refused with what to do instead.
#[test]
fn a_small_kernel_is_built_beside_its_tree() {
    let place = Place::new(&["0"]);
    let output = place.kernels(&["build", "tree", "--kasan", "--name", "mine"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(
        text(&output).contains("this tree does not take CONFIG_SYSVIPC=y"),
        "{}",
        text(&output)
    );
    let built = place.at("cache/build/mine");
    assert!(built.join("arch/x86/boot/bzImage").is_file());
    assert!(fs::read_to_string(built.join(".config")).unwrap().contains("CONFIG_KASAN=y"));
    fs::write(place.tree().join(".config"), "").unwrap();
    let output = place.kernels(&["build", "tree"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("has been built in place"), "{}", text(&output));
}
