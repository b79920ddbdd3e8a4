//! The directories as a tree: everything is reachable from the root, and counted right.

use crate::image::fsck::inodes;
use crate::image::fsck::model::Model;
use crate::image::fsck::report::Findings;
use crate::image::mkfs::{ROOT, root_attr};
use crate::image::tables::{
    Attr, INODE_MAX, INODES_USED, NEXT_INODE, dtype, name_hash, name_key, split_name_key,
};
use std::collections::{BTreeMap, BTreeSet};

/// Where repair puts what has no name.
const LOST_FOUND: &[u8] = b"lost+found";

/// Directory to what it holds: child and its key in `names`.
type Children = BTreeMap<u64, Vec<(u64, Vec<u8>)>>;

/// The work on the tree.
struct Tree<'a> {
    m: &'a mut Model,
    f: &'a mut Findings,
    hash_key: &'a [u8; 16],
    children: Children,
    reached: BTreeSet<u64>,
    lost_found: Option<u64>,
}

/// Checks the tree and all counts. Returns the orphans: inodes that were open without a name when
/// the image was last used, whose blocks are still theirs.
pub fn check(m: &mut Model, f: &mut Findings, hash_key: &[u8; 16]) -> BTreeSet<u64> {
    check_next_inode(m, f);
    check_inodes_used(m, f);
    let mut children = Children::new();
    for (key, (child, _)) in &m.names {
        if let Some((parent, ..)) = split_name_key(key) {
            children.entry(parent).or_default().push((*child, key.clone()));
        }
    }
    let reached = BTreeSet::new();
    let mut tree = Tree { m, f, hash_key, children, reached, lost_found: None };
    tree.reach(ROOT);
    let orphans = tree.orphans();
    tree.reattach_nameless(&orphans);
    tree.reattach_cycles();
    check_counts(m, f, &orphans);
    orphans
}

impl Tree<'_> {
    /// Marks all that is below `from`.
    fn reach(&mut self, from: u64) {
        let mut todo = vec![from];
        while let Some(ino) = todo.pop() {
            if self.reached.insert(ino) {
                todo.extend(self.children.get(&ino).into_iter().flatten().map(|(child, _)| *child));
            }
        }
    }

    fn is_named(&self) -> BTreeSet<u64> {
        self.m.names.values().map(|(child, _)| *child).collect()
    }

    /// Inodes listed as orphans that really are; wrong rows of the list are dropped.
    fn orphans(&mut self) -> BTreeSet<u64> {
        let named = self.is_named();
        let (mut good, mut bad) = (BTreeSet::new(), Vec::new());
        for ino in &self.m.orphans {
            match self.m.inodes.get(ino) {
                None => bad.push((*ino, "is listed as an orphan and does not exist")),
                Some(_) if *ino == ROOT || named.contains(ino) => {
                    bad.push((*ino, "is listed as an orphan, but has a name"));
                }
                Some(attr) if attr.nlink > 0 => {
                    bad.push((*ino, "is listed as an orphan, but counts names"));
                }
                Some(_) => drop(good.insert(*ino)),
            }
        }
        for (ino, problem) in bad {
            self.m.orphans.remove(&ino);
            self.f.error(inodes::object(ino), problem, "it is taken off the list");
        }
        good
    }

    fn reattach_nameless(&mut self, orphans: &BTreeSet<u64>) {
        let named = self.is_named();
        let lost = |ino: &&u64| **ino != ROOT && !named.contains(*ino) && !orphans.contains(*ino);
        let lost: Vec<u64> = self.m.inodes.keys().filter(lost).copied().collect();
        for ino in lost {
            let name = format!("/lost+found/#{ino}");
            self.f.error(inodes::object(ino), "has no name", format!("it is linked as {name}"));
            self.attach(ino);
        }
        // What orphaned directories still hold goes with them only if nothing is lost by it.
        for ino in orphans {
            let held = self.children.remove(ino).unwrap_or_default();
            for (child, key) in held {
                self.m.names.remove(&key);
                let problem = format!("is in directory {ino}, which was removed");
                self.f.error(inodes::object(child), problem, "it moves to /lost+found");
                if !self.reached.contains(&child) {
                    self.attach(child);
                }
            }
        }
    }

    /// Directories that hold each other and are held by nobody else.
    fn reattach_cycles(&mut self) {
        // A directory has one name at most: that was checked.
        let unreached = |ino: &u64| !self.reached.contains(ino) && !self.m.orphans.contains(ino);
        let names = self.m.names.iter().filter(|(_, (ino, _))| unreached(ino));
        let homes: BTreeMap<u64, Vec<u8>> = names.map(|(key, v)| (v.0, key.clone())).collect();
        for (ino, key) in homes {
            let is_dir = self.m.inodes.get(&ino).is_some_and(Attr::is_dir);
            if !is_dir || self.reached.contains(&ino) {
                continue;
            }
            self.m.names.remove(&key);
            let parent = split_name_key(&key).and_then(|(p, ..)| self.children.get_mut(&p));
            if let Some(list) = parent {
                list.retain(|(_, k)| *k != key);
            }
            let problem = "is a directory that only leads to itself";
            self.f.error(inodes::object(ino), problem, "it moves to /lost+found");
            self.attach(ino);
        }
    }

    /// Gives an inode a name in /lost+found, or in the root if that name is taken by a file.
    fn attach(&mut self, ino: u64) {
        let dir = self.lost_found();
        let name = (0..)
            .map(|n| if n == 0 { format!("#{ino}") } else { format!("#{ino}.{n}") })
            .find(|name| !self.m.names.contains_key(&self.key(dir, name.as_bytes())));
        if let Some(name) = name {
            self.put(dir, name.as_bytes(), ino);
            self.reach(ino);
        }
    }

    fn lost_found(&mut self) -> u64 {
        if let Some(dir) = self.lost_found {
            return dir;
        }
        let there = self.m.names.get(&self.key(ROOT, LOST_FOUND)).map(|(ino, _)| *ino);
        let dir = match there {
            Some(ino) if self.m.inodes.get(&ino).is_some_and(Attr::is_dir) => ino,
            Some(_) => ROOT,
            None => self.make_lost_found(),
        };
        self.lost_found = Some(dir);
        dir
    }

    fn make_lost_found(&mut self) -> u64 {
        let next = self.m.counters.entry(NEXT_INODE.into()).or_insert(ROOT + 1);
        let ino = *next;
        *next += 1;
        *self.m.counters.entry(INODES_USED.into()).or_insert(0) += 1;
        let mode = libc::S_IFDIR | 0o700;
        self.m.inodes.insert(ino, Attr { mode, ..root_attr() });
        self.put(ROOT, LOST_FOUND, ino);
        self.reached.insert(ino);
        ino
    }

    fn key(&self, dir: u64, name: &[u8]) -> Vec<u8> {
        name_key(dir, name_hash(self.hash_key, name), name)
    }

    fn put(&mut self, dir: u64, name: &[u8], ino: u64) {
        let Some(attr) = self.m.inodes.get_mut(&ino) else { return };
        if attr.is_dir() {
            attr.parent = dir;
        }
        let kind = dtype(attr.mode);
        let key = self.key(dir, name);
        self.children.entry(dir).or_default().push((ino, key.clone()));
        self.m.names.insert(key, (ino, kind));
    }
}

/// What the names say an inode's numbers should be.
#[derive(Clone, Copy, Default)]
struct Count {
    names: u32,
    entries: u64,
    subdirs: u32,
    parent: u64,
}

fn check_counts(m: &mut Model, f: &mut Findings, orphans: &BTreeSet<u64>) {
    let mut counts: BTreeMap<u64, Count> = BTreeMap::new();
    for (key, (child, _)) in &m.names {
        let Some((parent, ..)) = split_name_key(key) else { continue };
        let is_dir = m.inodes.get(child).is_some_and(Attr::is_dir);
        let of_child = counts.entry(*child).or_default();
        of_child.names += 1;
        of_child.parent = parent;
        let of_parent = counts.entry(parent).or_default();
        of_parent.entries += 1;
        of_parent.subdirs += u32::from(is_dir);
    }
    for (ino, attr) in &mut m.inodes {
        let count = counts.get(ino).copied().unwrap_or_default();
        let nlink = match attr.is_dir() {
            _ if orphans.contains(ino) => 0,
            true => 2 + count.subdirs,
            false => count.names,
        };
        let object = inodes::object(*ino);
        if attr.nlink != nlink {
            let problem = format!("has link count {}, should be {nlink}", attr.nlink);
            f.error(&object, problem, "the count is set");
            attr.nlink = nlink;
        }
        if !attr.is_dir() {
            continue;
        }
        if attr.size != count.entries {
            let problem = format!("counts {} entries, has {}", attr.size, count.entries);
            f.error(&object, problem, "the number is set");
            attr.size = count.entries;
        }
        if *ino != ROOT && count.names > 0 && attr.parent != count.parent {
            let problem = format!("has the parent {}, is in {}", attr.parent, count.parent);
            f.error(&object, problem, "the parent is set");
            attr.parent = count.parent;
        }
    }
}

fn check_next_inode(m: &mut Model, f: &mut Findings) {
    let largest = m.inodes.last_key_value().map_or(ROOT, |(ino, _)| *ino);
    let next = m.counters.get(NEXT_INODE).copied();
    if next.is_none_or(|next| next <= largest || next > INODE_MAX) {
        let was = next.map_or("missing".to_owned(), |n| n.to_string());
        let problem = format!("is {was}, the largest inode is {largest}");
        f.error(format!("counter {NEXT_INODE}"), problem, "it is set");
        m.counters.insert(NEXT_INODE.into(), largest.saturating_add(1));
    }
}

fn check_inodes_used(m: &mut Model, f: &mut Findings) {
    let used = m.inodes.len() as u64;
    let counted = m.counters.get(INODES_USED).copied();
    if counted != Some(used) {
        let was = counted.map_or("missing".to_owned(), |n| n.to_string());
        let problem = format!("is {was}, there are {used} inodes");
        f.error(format!("counter {INODES_USED}"), problem, "it is set");
        m.counters.insert(INODES_USED.into(), used);
    }
}

/// Removes the orphans with everything that is theirs, as the next mount would.
pub fn reclaim(m: &mut Model, f: &mut Findings, orphans: &BTreeSet<u64>) {
    for ino in orphans {
        f.note(
            inodes::object(*ino),
            "was open without a name when the image was last used",
            "it is reclaimed",
        );
        m.inodes.remove(ino);
        m.targets.remove(ino);
        m.orphans.remove(ino);
    }
    m.extents.retain(|(ino, _), _| !orphans.contains(ino));
    m.xattrs.retain(|(ino, _), _| !orphans.contains(ino));
    m.counters.insert(INODES_USED.into(), m.inodes.len() as u64);
}
