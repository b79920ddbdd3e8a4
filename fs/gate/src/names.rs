//! The names of nodes, as far as the kernel has looked them up.
//!
//! A FUSE request names a node id, people name paths. Before the kernel can ask anything of a node it has to
//! look its name up, so whoever sees all entries that are answered, and every change of names, knows the path of every
//! node that a request can be about.

use std::collections::HashMap;

use glob::{MatchOptions, Pattern};
use inflight_fuse::Name;

use super::{GateError, Subject};

/// FUSE_ROOT_ID of linux/fuse.h.
const ROOT: u64 = 1;
/// Longest path that is put together: PATH_MAX of linux/limits.h.
const PATH_MAX: usize = 4096;

/// A name in a directory.
type Entry = (u64, Vec<u8>);

/// Which node has which names.
#[derive(Debug, Default)]
pub struct Names {
    nodes: HashMap<u64, Node>,
    entries: HashMap<Entry, u64>,
}

#[derive(Debug, Default)]
struct Node {
    /// How often the kernel looked it up and has not forgotten.
    lookups: u64,
    /// Its names; one that is no longer in `entries` is the last one that it had.
    names: Vec<Entry>,
}

/// A pattern of paths.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pattern: Pattern,
    /// It is compared with the last part of a path alone.
    last_part: bool,
}

impl Shape {
    /// # Errors
    /// It is no pattern.
    pub fn new(text: &str) -> Result<Shape, GateError> {
        let last_part = !text.contains('/');
        let whole =
            if last_part || text.starts_with('/') { text.to_owned() } else { format!("/{text}") };
        let pattern = Pattern::new(&whole)
            .map_err(|error| GateError::BadRule(format!("pattern '{text}': {error}")))?;
        Ok(Shape { pattern, last_part })
    }

    fn fits(&self, path: &[u8]) -> bool {
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let text = String::from_utf8_lossy(if self.last_part { last } else { path });
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        self.pattern.matches_with(&text, options)
    }
}

impl Names {
    /// An entry was answered: the kernel looked it up, made it, or listed it.
    pub fn entry(&mut self, parent: u64, name: &[u8], node: u64) {
        self.link(parent, name, node);
        self.nodes.entry(node).or_default().lookups += 1;
    }

    /// A name was removed.
    pub fn removed(&mut self, parent: u64, name: &[u8]) {
        let entry = (parent, name.to_vec());
        let Some(node) = self.entries.remove(&entry) else { return };
        self.lose(node, &entry);
    }

    /// A name was changed; with `exchange` the two changed places (RENAME_EXCHANGE of renameat2(2)).
    pub fn renamed(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), exchange: bool) {
        let node = |names: &Names, (parent, name): (u64, &[u8])| {
            names.entries.get(&(parent, name.to_vec())).copied()
        };
        let (moved, other) = (node(self, from), node(self, to));
        self.removed(to.0, to.1);
        // The new name comes before the old one goes, which else would stay as the last one.
        if let Some(moved) = moved {
            self.link(to.0, to.1, moved);
        }
        self.removed(from.0, from.1);
        if let Some(other) = other.filter(|_| exchange) {
            self.link(from.0, from.1, other);
        }
    }

    /// The kernel forgot so many lookups of a node.
    pub fn forgotten(&mut self, node: u64, lookups: u64) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups == 0 {
            let gone = self.nodes.remove(&node).unwrap_or_default();
            for entry in gone.names {
                if self.entries.get(&entry) == Some(&node) {
                    self.entries.remove(&entry);
                }
            }
        }
    }

    /// Whether a path that the request is about is like this.
    pub(super) fn is_like(&self, subject: &Subject, shape: &Shape) -> bool {
        let fits = |(parent, name): (u64, &[u8])| {
            self.path(parent, name).is_some_and(|path| shape.fits(&path))
        };
        if subject.names.is_empty() {
            let node = self.nodes.get(&subject.ino);
            let names = node.map_or(&[][..], |node| &node.names);
            return names.iter().any(|(parent, name)| fits((*parent, name)))
                || subject.ino == ROOT && shape.pattern.as_str() == "/";
        }
        subject.names.iter().any(|(parent, name): &(u64, Name)| fits((*parent, name.as_bytes())))
    }

    fn link(&mut self, parent: u64, name: &[u8], node: u64) {
        let entry = (parent, name.to_vec());
        if let Some(before) = self.entries.insert(entry.clone(), node)
            && before != node
        {
            self.lose(before, &entry);
        }
        let entries = &self.entries;
        let names = &mut self.nodes.entry(node).or_default().names;
        names.retain(|known| *known != entry && entries.get(known) == Some(&node));
        names.push(entry);
    }

    /// A node no longer has a name; the last one is kept as what it was called.
    fn lose(&mut self, node: u64, entry: &Entry) {
        if let Some(node) = self.nodes.get_mut(&node)
            && node.names.len() > 1
        {
            node.names.retain(|known| known != entry);
        }
    }

    /// The path of a name, from the root of the mount.
    fn path(&self, mut parent: u64, name: &[u8]) -> Option<Vec<u8>> {
        let mut parts = vec![name];
        let mut len = name.len() + 1;
        while parent != ROOT {
            let (above, name) = self.nodes.get(&parent)?.names.last()?;
            len += name.len() + 1;
            if len > PATH_MAX {
                return None;
            }
            parts.push(name);
            parent = *above;
        }
        let mut path = Vec::with_capacity(len);
        for part in parts.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(part);
        }
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a request on `node` is like, of these patterns.
    fn like<'a>(names: &Names, node: u64, patterns: &[&'a str]) -> Vec<&'a str> {
        let subject = Subject { ino: node, ..Subject::default() };
        let fits = |text: &&&str| names.is_like(&subject, &Shape::new(text).unwrap());
        patterns.iter().filter(fits).copied().collect()
    }

    fn tree() -> Names {
        let mut names = Names::default();
        names.entry(ROOT, b"d", 2);
        names.entry(2, b"app.db", 3);
        names
    }

    #[test]
    fn patterns_see_whole_paths_or_last_parts() {
        let all = ["/d/app.db", "d/app.db", "*.db", "/*.db", "/*/*.db", "/**/*.db", "app", "/d"];
        let fit = ["/d/app.db", "d/app.db", "*.db", "/*/*.db", "/**/*.db"];
        assert_eq!(like(&tree(), 3, &all), fit);
        assert_eq!(like(&tree(), ROOT, &["/", "/*", "d"]), ["/"]);
        assert!(Shape::new("a[").is_err());
    }

    #[test]
    fn a_request_by_name_is_about_what_is_not_there_yet() {
        let named = vec![(2, Name::new("app.db-journal"))];
        let subject = Subject { ino: 2, names: named, ..Subject::default() };
        let fits = |text| tree().is_like(&subject, &Shape::new(text).unwrap());
        assert!(fits("*-journal") && fits("/d/app.db-journal"));
        assert!(!fits("/d"), "the directory itself is not meant");
    }

    #[test]
    fn a_rename_takes_the_name_away_from_who_had_it() {
        let mut names = tree();
        names.entry(2, b"tmp", 4);
        names.renamed((2, b"tmp"), (2, b"app.db"), false);
        assert_eq!(like(&names, 4, &["tmp", "app.db"]), ["app.db"]);
        names.entry(ROOT, b"x", 5);
        names.renamed((ROOT, b"x"), (2, b"app.db"), true);
        assert_eq!(like(&names, 5, &["/x", "/d/app.db"]), ["/d/app.db"]);
        assert_eq!(like(&names, 4, &["/x", "/d/app.db"]), ["/x"]);
        names.renamed((ROOT, b"d"), (ROOT, b"e"), false);
        assert_eq!(like(&names, 5, &["/d/app.db", "/e/app.db"]), ["/e/app.db"]);
    }

    #[test]
    fn an_unlinked_file_keeps_its_last_name_until_the_kernel_forgets() {
        let mut names = tree();
        names.entry(ROOT, b"second", 3);
        names.removed(2, b"app.db");
        assert_eq!(like(&names, 3, &["app.db", "second"]), ["second"]);
        names.removed(ROOT, b"second");
        assert_eq!(like(&names, 3, &["second"]), ["second"]);
        names.forgotten(3, 1);
        assert_eq!(like(&names, 3, &["second"]), ["second"], "one lookup is left");
        names.forgotten(3, 1);
        assert!(like(&names, 3, &["second"]).is_empty());
        assert_eq!((names.nodes.len(), names.entries.len()), (1, 1));
    }
}
