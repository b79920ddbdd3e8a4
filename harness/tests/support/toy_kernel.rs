//! A tree of three files that plays the kernel's part, and a shell script that plays the harness'.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::text;

/// Configures like `make allnoconfig` with KCONFIG_ALLCONFIG, but for one option that it does not take, and builds an image
/// that says what `verdict` says; `broken` does not build.
const MAKEFILE: &str = "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 0\n\
    allnoconfig:\n\tgrep -v CONFIG_SYSVIPC $(KCONFIG_ALLCONFIG) >$(O)/.config\n\
    bzImage:\n\ttest ! -e broken\n\tmkdir -p $(O)/arch/x86/boot\n\tcp verdict $(O)/arch/x86/boot/bzImage\n";

/// Says what the image says, and keeps what it was called with in `calls` beside it.
const HARNESS: &str = "#!/bin/sh\necho \"$@\" >>\"$(dirname \"$0\")/calls\"\nexit \"$(cat \"$3/arch/x86/boot/bzImage\")\"\n";

/// Makes a tree with a commit, tagged c0, c1 and so on, for each verdict: an exit code of the harness, or `broken`.
pub fn make(tree: &Path, verdicts: &[&str]) {
    fs::create_dir(tree).unwrap();
    git(tree, &["init", "-q", "-b", "main"]);
    fs::write(tree.join("Kconfig"), "").unwrap();
    fs::write(tree.join("Makefile"), MAKEFILE).unwrap();
    for (number, verdict) in verdicts.iter().enumerate() {
        fs::write(tree.join("verdict"), verdict).unwrap();
        fs::write(tree.join("number"), number.to_string()).unwrap();
        let _ = fs::remove_file(tree.join("broken"));
        if *verdict == "broken" {
            fs::write(tree.join("broken"), "").unwrap();
        }
        git(tree, &["add", "-A"]);
        git(tree, &["commit", "-q", "-m", &format!("change {number}")]);
        git(tree, &["tag", &format!("c{number}")]);
    }
}

/// Makes the script that plays the harness.
pub fn make_harness(path: &Path) {
    fs::write(path, HARNESS).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs git in a tree; what it printed.
pub fn git(tree: &Path, words: &[&str]) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(tree).args(["-c", "user.name=a", "-c", "user.email=a@b"]);
    let output = git.args(words).output().expect("git");
    assert!(output.status.success(), "{words:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A folder with such a tree, and such a harness.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// With a commit for each verdict.
    pub fn new(verdicts: &[&str]) -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        make(&place.tree(), verdicts);
        make_harness(&place.at("race"));
        place
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn tree(&self) -> PathBuf {
        self.at("tree")
    }

    pub fn git(&self, words: &[&str]) -> String {
        git(&self.tree(), words)
    }

    pub fn kernels(&self, words: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kernels");
        let mut kernels = Command::new(script);
        kernels.env("INFLIGHT_KERNELS", self.at("cache")).env("INFLIGHT_RACE", self.at("race"));
        kernels.current_dir(self.folder.path()).args(words).output().expect("scripts/kernels")
    }
}
