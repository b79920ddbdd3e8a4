//! Imports point downwards: each layer of `fs/src` uses those below it and none above.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom. Layers of one row do not import each other. What is not listed (`errno`,
/// `options`, `mutant`) is vocabulary that all of them share.
const LAYERS: &[&[&str]] = &[
    &["disk"],
    &["image"],
    &["data"],
    &["volume"],
    &["fsck", "ops"],
    &["serve"],
    &["fuser"],
    &["mounted"],
    &["cli"],
];

fn sources(of: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(of).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

fn rank(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&layer))
}

/// The layers that the code before the tests of a file imports.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().map(str::trim);
    let used = lines.filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("use crate::")?;
        line.split([':', ';', '{', ' ']).next()
    });
    used.map(str::to_owned).collect()
}

#[test]
fn imports_point_downwards() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 50, "the sources are not where they are looked for");
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&root).expect("it was found there").with_extension("");
        let own = inside.iter().next().and_then(|part| part.to_str()).expect("a name");
        let Some(height) = rank(own) else { continue };
        for used in imports(&fs::read_to_string(&file).expect("a source")) {
            if used != own && rank(&used).is_some_and(|other| other >= height) {
                wrong.push(format!("{}: crate::{used}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these import from above:\n{}", wrong.join("\n"));
}
