//! The directories as a tree: everything is reachable from the root, and counted right.

use crate::errno::Result;
use crate::fsck::census::{Census, Directory};
use crate::fsck::claims::Claims;
use crate::fsck::model::Model;
use crate::fsck::report::Findings;
use crate::fsck::{inodes, names};
use crate::image::mkfs::{ROOT, root_attr};
use crate::image::pins::Run;
use crate::image::tables::{
    Attr, FROZEN, INODE_MAX, INODES_FROZEN, INODES_USED, NEXT_INODE, dtype, name_hash, name_key,
};
use std::collections::BTreeSet;

/// Where repair puts what has no name.
const LOST_FOUND: &[u8] = b"lost+found";

/// The work on the tree.
struct Tree<'a> {
    m: &'a mut Model,
    f: &'a mut Findings,
    census: &'a mut Census,
    hash_key: &'a [u8; 16],
    lost_found: Option<u64>,
}

/// Checks the tree. Returns the orphans: inodes that were open without a name when the image was
/// last used, whose blocks are still theirs.
///
/// # Errors
/// Those of the database.
pub fn check(
    m: &mut Model,
    f: &mut Findings,
    census: &mut Census,
    hash_key: &[u8; 16],
) -> Result<BTreeSet<u64>> {
    check_next_inode(m, f, census)?;
    check_inodes_used(m, f, census)?;
    check_inodes_frozen(m, f, census)?;
    let mut tree = Tree { m, f, census, hash_key, lost_found: None };
    let orphans = tree.orphans()?;
    tree.reattach_nameless(&orphans)?;
    tree.empty_orphans(&orphans)?;
    tree.reattach_cycles(&orphans)?;
    Ok(orphans)
}

impl Tree<'_> {
    /// Inodes listed as orphans that really are; wrong rows of the list are dropped.
    fn orphans(&mut self) -> Result<BTreeSet<u64>> {
        let (mut good, mut bad) = (BTreeSet::new(), Vec::new());
        let mut rows = self.m.orphans.rows();
        while let Some((ino, ())) = rows.next()? {
            let has_name = ino == ROOT || self.census.names(ino) > 0;
            match self.m.inodes.get(&ino)? {
                None => bad.push((ino, "is listed as an orphan and does not exist")),
                Some(_) if has_name => bad.push((ino, "is listed as an orphan, but has a name")),
                Some(attr) if attr.nlink > 0 => {
                    bad.push((ino, "is listed as an orphan, but counts names"));
                }
                Some(_) => drop(good.insert(ino)),
            }
        }
        for (ino, problem) in bad {
            self.m.orphans.remove(ino);
            self.f.error(inodes::object(ino), problem, "it is taken off the list");
        }
        Ok(good)
    }

    fn reattach_nameless(&mut self, orphans: &BTreeSet<u64>) -> Result<()> {
        let lost = self.census.nameless().filter(|ino| *ino != ROOT && !orphans.contains(ino));
        for ino in lost.collect::<Vec<u64>>() {
            let name = format!("/lost+found/#{ino}");
            self.f.error(inodes::object(ino), "has no name", format!("it is linked as {name}"));
            self.attach(ino)?;
        }
        Ok(())
    }

    /// What removed directories still hold goes with them only if nothing is lost by it.
    fn empty_orphans(&mut self, orphans: &BTreeSet<u64>) -> Result<()> {
        for ino in orphans {
            if self.census.directory(*ino).is_none_or(|d| d.entries == 0) {
                continue;
            }
            let (prefix, mut held) = (ino.to_be_bytes(), Vec::new());
            let mut rows = self.m.names.rows_from(Some(prefix.to_vec()));
            while let Some((key, (child, _))) =
                rows.next()?.filter(|(key, _)| key.starts_with(&prefix))
            {
                held.push((key, child));
            }
            for (key, child) in held {
                let problem = format!("is in directory {ino}, which was removed");
                self.f.error(inodes::object(child), problem, "it moves to /lost+found");
                self.detach(key, *ino, child);
                if self.census.names(child) == 0 {
                    self.attach(child)?;
                }
            }
        }
        Ok(())
    }

    /// Directories that hold each other and are held by nobody else.
    fn reattach_cycles(&mut self, orphans: &BTreeSet<u64>) -> Result<()> {
        let all: Vec<u64> = self.census.directories().map(|d| d.ino).collect();
        for from in all {
            let path = self.climb(from, orphans);
            let Some(cycle) = path.cycle() else {
                self.mark(&path.inos);
                continue;
            };
            // A directory has one name at most: that was checked.
            let least = cycle.iter().copied().min().unwrap_or(from);
            let home = self.census.directory(least).copied().unwrap_or_default();
            let problem = "is a directory that only leads to itself";
            self.f.error(inodes::object(least), problem, "it moves to /lost+found");
            if let Some(key) = names::find(&self.m.names, home.home, home.home_hash, least)? {
                self.detach(key, home.home, least);
            }
            self.attach(least)?;
            self.mark(&path.inos);
        }
        Ok(())
    }

    /// Goes up from a directory until something is met that was reached before, or that ends it.
    fn climb(&self, from: u64, orphans: &BTreeSet<u64>) -> Path {
        let (mut path, mut on_path) = (Path::default(), BTreeSet::new());
        let mut at = from;
        while at != ROOT && !orphans.contains(&at) {
            let Some(Directory { home, reached: false, .. }) = self.census.directory(at).copied()
            else {
                break;
            };
            if !on_path.insert(at) {
                path.met = Some(at);
                break;
            }
            path.inos.push(at);
            at = home;
        }
        path
    }

    fn mark(&mut self, inos: &[u64]) {
        for ino in inos {
            if let Some(directory) = self.census.directory_mut(*ino) {
                directory.reached = true;
            }
        }
    }

    fn detach(&mut self, key: Vec<u8>, parent: u64, child: u64) {
        self.m.names.remove(key);
        self.census.remove_name(parent, child);
    }

    /// Gives an inode a name in /lost+found, or in the root if that name is taken by a file.
    fn attach(&mut self, ino: u64) -> Result<()> {
        let dir = self.lost_found()?;
        for n in 0.. {
            let name = if n == 0 { format!("#{ino}") } else { format!("#{ino}.{n}") };
            if self.m.names.get(&self.key(dir, name.as_bytes()))?.is_none() {
                return self.put(dir, name.as_bytes(), ino);
            }
        }
        Ok(())
    }

    fn lost_found(&mut self) -> Result<u64> {
        if let Some(dir) = self.lost_found {
            return Ok(dir);
        }
        let dir = match self.m.names.get(&self.key(ROOT, LOST_FOUND))? {
            Some((ino, _)) if self.census.is_directory(ino) => ino,
            Some(_) => ROOT,
            None => self.make_lost_found()?,
        };
        self.lost_found = Some(dir);
        Ok(dir)
    }

    fn make_lost_found(&mut self) -> Result<u64> {
        let ino = self.m.counters.get(&NEXT_INODE.to_owned())?.unwrap_or(ROOT + 1);
        if ino > INODE_MAX {
            return Ok(ROOT);
        }
        self.m.counters.set(NEXT_INODE.to_owned(), ino + 1);
        let mode = libc::S_IFDIR | 0o700;
        self.m.inodes.set(ino, Attr { mode, ..root_attr() });
        self.census.add_directory(ino, ROOT);
        self.m.counters.set(INODES_USED.to_owned(), self.census.len());
        self.put(ROOT, LOST_FOUND, ino)?;
        self.mark(&[ino]);
        Ok(ino)
    }

    fn key(&self, dir: u64, name: &[u8]) -> Vec<u8> {
        name_key(dir, name_hash(self.hash_key, name), name)
    }

    fn put(&mut self, dir: u64, name: &[u8], ino: u64) -> Result<()> {
        let Some(attr) = self.m.inodes.get(&ino)? else { return Ok(()) };
        let kind = dtype(attr.mode);
        if let Some(directory) = self.census.directory_mut(ino) {
            (directory.home, directory.home_hash) = (dir, name_hash(self.hash_key, name));
            self.m.inodes.set(ino, Attr { parent: dir, ..attr });
        }
        self.m.names.set(self.key(dir, name), (ino, kind));
        self.census.add_name(dir, ino);
        Ok(())
    }
}

/// Directories on the way up from one, and the one that was met twice.
#[derive(Default)]
struct Path {
    inos: Vec<u64>,
    met: Option<u64>,
}

impl Path {
    fn cycle(&self) -> Option<&[u64]> {
        let start = self.inos.iter().position(|ino| Some(*ino) == self.met)?;
        Some(&self.inos[start..])
    }
}

/// Compares what an inode counts with the names that there are.
pub fn check_counts(f: &mut Findings, ino: u64, attr: &mut Attr, census: &Census, orphan: bool) {
    let directory = census.directory(ino).copied().unwrap_or_default();
    let nlink = match attr.is_dir() {
        _ if orphan => 0,
        true => 2 + directory.subdirs,
        false => census.names(ino),
    };
    if attr.nlink != nlink {
        let problem = format!("has link count {}, should be {nlink}", attr.nlink);
        f.error(inodes::object(ino), problem, "the count is set");
        attr.nlink = nlink;
    }
    if !attr.is_dir() {
        return;
    }
    if attr.size != directory.entries {
        let problem = format!("counts {} entries, has {}", attr.size, directory.entries);
        f.error(inodes::object(ino), problem, "the number is set");
        attr.size = directory.entries;
    }
    if ino != ROOT && directory.home != 0 && attr.parent != directory.home {
        let problem = format!("has the parent {}, is in {}", attr.parent, directory.home);
        f.error(inodes::object(ino), problem, "the parent is set");
        attr.parent = directory.home;
    }
}

fn check_next_inode(m: &mut Model, f: &mut Findings, census: &Census) -> Result<()> {
    let largest = census.last().unwrap_or(ROOT);
    let next = m.counters.get(&NEXT_INODE.to_owned())?;
    if next.is_none_or(|next| next <= largest || next > INODE_MAX) {
        let was = next.map_or("missing".to_owned(), |n| n.to_string());
        let problem = format!("is {was}, the largest inode is {largest}");
        f.error(format!("counter {NEXT_INODE}"), problem, "it is set");
        m.counters.set(NEXT_INODE.to_owned(), largest.saturating_add(1));
    }
    Ok(())
}

fn check_inodes_used(m: &mut Model, f: &mut Findings, census: &Census) -> Result<()> {
    let used = census.len();
    let counted = m.counters.get(&INODES_USED.to_owned())?;
    if counted != Some(used) {
        let was = counted.map_or("missing".to_owned(), |n| n.to_string());
        let problem = format!("is {was}, there are {used} inodes");
        f.error(format!("counter {INODES_USED}"), problem, "it is set");
        m.counters.set(INODES_USED.to_owned(), used);
    }
    Ok(())
}

/// While it is 0, nobody asks whether a file may be written.
fn check_inodes_frozen(m: &mut Model, f: &mut Findings, census: &Census) -> Result<()> {
    let counted = m.counters.get(&INODES_FROZEN.to_owned())?.unwrap_or(0);
    if counted != census.frozen {
        let problem = format!("is {counted}, there are {} such inodes", census.frozen);
        f.error(format!("counter {INODES_FROZEN}"), problem, "it is set");
        m.counters.set(INODES_FROZEN.to_owned(), census.frozen);
    }
    Ok(())
}

/// Removes the orphans with everything that is theirs, as the next mount would.
///
/// # Errors
/// Those of the database.
pub fn reclaim(
    m: &mut Model,
    f: &mut Findings,
    census: &Census,
    orphans: &BTreeSet<u64>,
    claims: &mut Claims,
) -> Result<()> {
    let mut frozen = census.frozen;
    for ino in orphans {
        frozen -= u64::from(m.inodes.get(ino)?.is_some_and(|attr| attr.flags & FROZEN != 0));
        let problem = "was open without a name when the image was last used";
        f.note(inodes::object(*ino), problem, "it is reclaimed");
        for (key, extent) in m.extents.of_inode(*ino)? {
            claims.release(Run { start: extent.start, blocks: extent.blocks });
            m.extents.remove(key);
        }
        for (key, _) in m.xattrs.of_inode(*ino)? {
            m.xattrs.remove(key);
        }
        if m.targets.get(ino)?.is_some() {
            m.targets.remove(*ino);
        }
        m.inodes.remove(*ino);
        m.orphans.remove(*ino);
    }
    m.counters.set(INODES_USED.to_owned(), census.len() - orphans.len() as u64);
    m.counters.set(INODES_FROZEN.to_owned(), frozen);
    Ok(())
}
