//! The corpus of `fs/fuzz`, replayed: inputs that reached something new, and those that once broke
//! something.

#[path = "images/fuzzed.rs"]
mod fuzzed;

use std::path::Path;

fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .expect("the corpus is in the tree")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "{target}: no corpus");
    for name in names {
        let bytes = std::fs::read(&name).expect("read");
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&bytes)));
        assert!(ran.is_ok(), "{target}: {} breaks it", name.display());
    }
}

#[test]
fn superblocks() {
    replay("superblock", fuzzed::superblock);
}

#[test]
fn values() {
    replay("values", fuzzed::values);
}

#[test]
fn images() {
    replay("image", fuzzed::image);
}
