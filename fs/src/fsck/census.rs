//! What every inode is, in a few bytes: enough to judge names without looking inodes up.
//!
//! An inode costs 9 bytes, a directory 48 more.

use crate::image::tables::{Attr, FROZEN, dtype};
use std::collections::HashMap;

/// All inodes.
#[derive(Debug, Default)]
pub struct Census {
    /// The lower halves of the numbers, in order.
    lows: Vec<u32>,
    /// An upper half, and where its first number lies in `lows`.
    highs: Vec<(u32, usize)>,
    /// DT_* types.
    kinds: Vec<u8>,
    /// Names that were counted.
    names: Vec<u32>,
    /// Those of them that are directories, in order.
    directories: Vec<Directory>,
    /// Inodes that are immutable or append-only.
    pub frozen: u64,
    /// Inodes that were made to repair others.
    added: HashMap<u64, (u8, u32)>,
}

/// What else must be known of a directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Directory {
    /// Its inode.
    pub ino: u64,
    /// The parent that its inode speaks of.
    pub parent: u64,
    /// The directory that it has a name in, 0 for none.
    pub home: u64,
    /// The hash that this name is filed under.
    pub home_hash: u64,
    /// Names in it.
    pub entries: u64,
    /// Those of them that are directories.
    pub subdirs: u32,
    /// The root, or something without a name, is above it.
    pub reached: bool,
}

impl Census {
    /// Counts an inode. Numbers come in rising order.
    pub fn push(&mut self, ino: u64, attr: &Attr) {
        let high = (ino >> 32) as u32;
        if self.highs.last().is_none_or(|(last, _)| *last != high) {
            self.highs.push((high, self.lows.len()));
        }
        self.lows.push(ino as u32);
        self.frozen += u64::from(attr.flags & FROZEN != 0);
        self.kinds.push(dtype(attr.mode));
        self.names.push(0);
        if attr.is_dir() {
            self.directories.push(Directory { ino, parent: attr.parent, ..Directory::default() });
        }
    }

    /// Counts a directory that was made just now.
    pub fn add_directory(&mut self, ino: u64, parent: u64) {
        self.added.insert(ino, (libc::DT_DIR, 0));
        let at = self.directories.partition_point(|d| d.ino < ino);
        self.directories.insert(at, Directory { ino, parent, ..Directory::default() });
    }

    /// Number of inodes.
    pub fn len(&self) -> u64 {
        (self.lows.len() + self.added.len()) as u64
    }

    /// The largest number.
    pub fn last(&self) -> Option<u64> {
        let (high, _) = self.highs.last()?;
        Some(u64::from(*high) << 32 | u64::from(*self.lows.last()?))
    }

    /// DT_* type of an inode; `None` when there is no such inode.
    pub fn kind(&self, ino: u64) -> Option<u8> {
        match self.position(ino) {
            Some(at) => Some(self.kinds[at]),
            None => self.added.get(&ino).map(|(kind, _)| *kind),
        }
    }

    /// True when there is such a directory.
    pub fn is_directory(&self, ino: u64) -> bool {
        self.kind(ino) == Some(libc::DT_DIR)
    }

    /// Names of an inode that were counted.
    pub fn names(&self, ino: u64) -> u32 {
        match self.position(ino) {
            Some(at) => self.names[at],
            None => self.added.get(&ino).map_or(0, |(_, names)| *names),
        }
    }

    /// Inodes without a name.
    pub fn nameless(&self) -> impl Iterator<Item = u64> + '_ {
        let starts = self.highs.iter().map(|(high, start)| (u64::from(*high) << 32, *start));
        let ends = self.highs.iter().skip(1).map(|(_, start)| *start).chain([self.lows.len()]);
        let stretches = starts.zip(ends);
        stretches.flat_map(move |((high, start), end)| {
            let nameless = (start..end).filter(|at| self.names[*at] == 0);
            nameless.map(move |at| high | u64::from(self.lows[at]))
        })
    }

    /// A name in `parent` for `ino` is there.
    pub fn add_name(&mut self, parent: u64, ino: u64) {
        self.count(parent, ino, 1);
    }

    /// A name in `parent` for `ino` is gone.
    pub fn remove_name(&mut self, parent: u64, ino: u64) {
        self.count(parent, ino, -1);
    }

    /// A directory.
    pub fn directory(&self, ino: u64) -> Option<&Directory> {
        let at = self.directories.binary_search_by_key(&ino, |d| d.ino).ok()?;
        Some(&self.directories[at])
    }

    /// A directory, to be changed.
    pub fn directory_mut(&mut self, ino: u64) -> Option<&mut Directory> {
        let at = self.directories.binary_search_by_key(&ino, |d| d.ino).ok()?;
        Some(&mut self.directories[at])
    }

    /// All directories.
    pub fn directories(&self) -> impl Iterator<Item = &Directory> {
        self.directories.iter()
    }

    fn count(&mut self, parent: u64, ino: u64, by: i32) {
        match self.position(ino) {
            Some(at) => self.names[at] = self.names[at].saturating_add_signed(by),
            None => {
                let added = self.added.entry(ino).or_default();
                added.1 = added.1.saturating_add_signed(by);
            }
        }
        let is_directory = self.is_directory(ino);
        if let Some(parent) = self.directory_mut(parent) {
            parent.entries = parent.entries.saturating_add_signed(by.into());
            parent.subdirs = parent.subdirs.saturating_add_signed(by * i32::from(is_directory));
        }
    }

    fn position(&self, ino: u64) -> Option<usize> {
        let i = self.highs.binary_search_by_key(&((ino >> 32) as u32), |(high, _)| *high).ok()?;
        let start = self.highs[i].1;
        let end = self.highs.get(i + 1).map_or(self.lows.len(), |(_, start)| *start);
        let lows = &self.lows[start..end];
        // Numbers are handed out one after the other: most of them lie where they would without
        // gaps, or a little before.
        let guess = (ino as u32).wrapping_sub(*lows.first()?) as usize;
        if lows.get(guess) == Some(&(ino as u32)) {
            return Some(start + guess);
        }
        lows.binary_search(&(ino as u32)).ok().map(|at| start + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::mkfs::root_attr;

    #[test]
    fn inodes_are_found_by_number_with_what_was_counted() {
        let mut census = Census::default();
        let file = Attr { mode: libc::S_IFREG | 0o644, ..root_attr() };
        let numbers = [1, 2, 7, u64::from(u32::MAX), 1 << 32, (1 << 32) + 5, 1 << 40];
        for ino in numbers {
            let attr = if ino == 7 { file.clone() } else { root_attr() };
            census.push(ino, &attr);
        }
        assert_eq!((census.len(), census.last()), (7, Some(1 << 40)));
        assert_eq!(census.kind(7), Some(libc::DT_REG));
        for ino in numbers.into_iter().filter(|ino| *ino != 7) {
            assert!(census.is_directory(ino), "{ino}");
        }
        for ino in [0, 3, 8, (1 << 32) + 1, (1 << 32) + 6, 1 << 41] {
            assert_eq!(census.kind(ino), None, "{ino}");
        }
        census.add_name(2, 7);
        census.add_name(2, 1 << 40);
        census.add_directory(9, 1);
        census.add_name(2, 9);
        census.remove_name(2, 1 << 40);
        let two = census.directory(2).expect("there");
        assert_eq!((two.entries, two.subdirs, census.names(7), census.names(9)), (2, 1, 1, 1));
        let nameless: Vec<u64> = census.nameless().collect();
        assert_eq!(nameless, [1, 2, u64::from(u32::MAX), 1 << 32, (1 << 32) + 5, 1 << 40]);
    }
}
