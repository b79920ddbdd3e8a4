//! `scripts/kernels build` and `bisect`: a small kernel of a tree that stays as it is, and the commit that brought harm. A
//! tree of three files plays the kernel's part, a shell script the harness'.

mod support;

use std::fs;

use support::text;
use support::toy_kernel::Place;

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
