//! SEMANTICS.md against the tests: every promise is quoted above a test, nothing else is, and README's promises are among them.
//!
//! A promise is a paragraph quoted with `>`. Above a test it stands in lines that begin with `// >`, the rest of a long one in
//! lines that begin with `//` right below.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The promises of the document.
fn promised() -> BTreeSet<String> {
    let text = text(&here("SEMANTICS.md"));
    let promises: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("> ")).map(str::to_owned).collect();
    let set: BTreeSet<String> = promises.iter().cloned().collect();
    assert_eq!(set.len(), promises.len(), "a promise is made twice");
    set
}

/// What the tests of one file quote, and whether a test follows.
fn quoted(text: &str) -> Vec<(String, bool)> {
    let (mut quotes, mut waiting) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(quote) = line.strip_prefix("// > ") {
            waiting.push(quote.to_owned());
        } else if let (Some(more), Some(last)) = (line.strip_prefix("// "), waiting.last_mut()) {
            *last = format!("{last} {more}");
        } else if !line.starts_with("//") {
            let holds = line == "#[test]";
            quotes.extend(waiting.drain(..).map(|quote| (quote, holds)));
        }
    }
    quotes
}

/// Promises and the files whose tests quote them.
fn held() -> BTreeMap<String, BTreeSet<String>> {
    let mut held: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for entry in std::fs::read_dir(here("tests")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "rs") || path.ends_with("semantics.rs") {
            continue;
        }
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        for (quote, holds) in quoted(&text(&path)) {
            assert!(holds, "{name}: no test below the quotation of: {quote}");
            held.entry(quote).or_default().insert(name.clone());
        }
    }
    held
}

#[test]
fn every_promise_is_held_by_a_test() {
    let held = held();
    let empty: Vec<_> = promised().into_iter().filter(|p| !held.contains_key(p)).collect();
    assert!(empty.is_empty(), "no test quotes:\n{}", empty.join("\n"));
}

#[test]
fn every_quotation_is_a_promise() {
    let promised = promised();
    for (quote, files) in held() {
        assert!(
            promised.contains(&quote),
            "{files:?} quote what SEMANTICS.md does not say: {quote}"
        );
    }
}

#[test]
fn readme_promises_nothing_else() {
    let readme = text(&here("../README.md"));
    let section = readme.split("\n## What you can rely on\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut claims: Vec<String> = Vec::new();
    for line in section.lines() {
        if let Some(claim) = line.strip_prefix("* ") {
            claims.push(claim.to_owned());
        } else if let (Some(more), Some(last)) = (line.strip_prefix("  "), claims.last_mut()) {
            *last = format!("{last} {more}");
        }
    }
    let promised = promised();
    assert!(claims.len() > 5, "{claims:?}");
    for claim in claims {
        assert!(promised.contains(&claim), "README promises what SEMANTICS.md does not: {claim}");
    }
}

#[test]
fn quotations_are_found_with_their_tests() {
    let text =
        "// > One\n// more.\n//\n// > Two.\n#[test]\nfn f() {}\n// > Three.\nfn g() {}\n// no\n";
    let found = [("One more.", true), ("Two.", true), ("Three.", false)];
    assert_eq!(quoted(text), found.map(|(quote, holds)| (quote.to_owned(), holds)));
}
