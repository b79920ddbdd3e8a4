//! Imports point downwards: each room of `harness/src` uses those below it and none above, and no modules of a room import
//! each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom. Rooms of one row do not import each other.
const ROOMS: &[&[&str]] = &[
    &["kit"],
    &["target"],
    &["fixture"],
    &["cases"],
    &["matrix", "stress"],
    &["run"],
    &["report"],
    &["mechanisms", "probe"],
    &["vm"],
    &["cli"],
];

/// The program and the list of the rooms themselves.
const ROOTS: &[&str] = &["lib", "main"];

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

fn height(room: &str) -> Option<usize> {
    ROOMS.iter().position(|row| row.contains(&room))
}

/// What stands behind each `crate::` in the code before the tests of a file, `use` or not, braces opened: `kit::sys`.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = lines.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let path = rest.trim_start_matches('{').trim_start();
        let is_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
        let path: String = path.chars().take_while(|&letter| is_path(letter)).collect();
        let nested = rest.strip_prefix(&*path).and_then(|more| more.strip_prefix('{'));
        let inner = nested.and_then(|inner| inner.split(['}', ';']).next()).unwrap_or_default();
        match inner.is_empty() && !rest.starts_with('{') {
            true => found.push(path),
            false => {
                let path = if rest.starts_with('{') { String::new() } else { path };
                let names = rest
                    .strip_prefix('{')
                    .map_or(inner, |list| list.split(['}', ';']).next().unwrap_or_default());
                found.extend(names.split(',').map(|name| format!("{path}{}", name.trim())));
            }
        }
    }
    found
}

/// The room and the module in it, of a file or of an import.
fn place(path: &str) -> (String, String) {
    let mut parts = path.split("::").map(str::to_owned);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// Every file's place and what it imports.
fn all() -> Vec<((String, String), Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 100, "the sources are not where they are looked for");
    let read = |file: PathBuf| {
        let inside = file.strip_prefix(&root).expect("it was found there").with_extension("");
        let own = inside.display().to_string().replace('/', "::");
        (place(&own), imports(&fs::read_to_string(&file).expect("a source")))
    };
    files.retain(|file| !file.ends_with("tests.rs"));
    files.into_iter().map(read).collect()
}

#[test]
fn imports_point_downwards() {
    let mut wrong = Vec::new();
    for ((room, module), used) in all() {
        if ROOTS.contains(&&*room) {
            continue;
        }
        let own = height(&room).unwrap_or_else(|| panic!("{room} is no room of the list"));
        for used in used {
            let (other, _) = place(&used);
            let other_height = height(&other);
            let is_beside = other_height == Some(own) && other != room;
            if other_height.is_some_and(|other| other > own) || is_beside {
                wrong.push(format!("{room}::{module}: crate::{used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "these import from above or beside:\n{}", wrong.join("\n"));
}

/// What leads from a module back to it, if anything does.
fn circle(
    from: &str,
    edges: &BTreeMap<String, BTreeSet<String>>,
    way: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> bool {
    if let Some(at) = way.iter().position(|module| module == from) {
        way.drain(..at);
        return true;
    }
    if !done.insert(from.to_owned()) {
        return false;
    }
    way.push(from.to_owned());
    let is_found = edges
        .get(from)
        .is_some_and(|next| next.iter().any(|module| circle(module, edges, way, done)));
    if !is_found {
        way.pop();
    }
    is_found
}

#[test]
fn no_modules_of_a_room_import_each_other_in_a_circle() {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for ((room, module), used) in all() {
        for used in used {
            let (other_room, other) = place(&used);
            let is_module = other.chars().next().is_some_and(char::is_lowercase);
            if other_room == room && other != module && is_module && !module.is_empty() {
                let other = format!("{room}::{other}");
                edges.entry(format!("{room}::{module}")).or_default().insert(other);
            }
        }
    }
    assert!(edges.len() > 20, "no imports within rooms were found");
    let mut done = BTreeSet::new();
    for module in edges.keys() {
        let mut way = Vec::new();
        assert!(!circle(module, &edges, &mut way, &mut done), "a circle: {}", way.join(" -> "));
    }
}

#[test]
fn every_form_of_an_import_is_read() {
    let text = "use crate::kit::{event, sys};\nuse crate::{cases as subjects, run};\n\
                let x = crate::vm::run();\n//! [`crate::cli`]\n#[cfg(test)]\nuse crate::report;";
    let wanted = ["kit::event", "kit::sys", "cases as subjects", "run", "vm::run"];
    assert_eq!(imports(text), wanted);
}

/// Structures of include/uapi/linux/fuse.h are laid out in inflight-fuse, whose tests compare them with the kernel's header.
#[test]
fn the_protocol_has_no_second_layout() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let is_layout = |line: &str| {
        line.contains("struct fuse_") && line.contains("_in")
            || ["struct InHeader", "struct OutHeader"].iter().any(|name| line.contains(name))
    };
    for file in files {
        let text = fs::read_to_string(&file).expect("a source");
        let found = text.lines().find(|line| is_layout(line));
        assert_eq!(found, None, "{}", file.display());
    }
}
