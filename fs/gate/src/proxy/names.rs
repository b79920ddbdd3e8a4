//! Names of nodes, as the answers that pass by tell them, so that a rule can name a file.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use inflight_fuse::abi::{Direntplus, EntryOut, ROOT_ID};
use inflight_fuse::channel::Message;
use inflight_fuse::{Dialect, Name, Operation};
use zerocopy::FromBytes as _;

/// `RENAME_EXCHANGE` of renameat2(2).
const EXCHANGE: u32 = libc::RENAME_EXCHANGE;

type Place = (u64, Vec<u8>);

/// What a successful answer to a request will tell.
#[derive(Debug)]
pub(super) enum Lesson {
    /// A name in a directory has the node of the answer.
    Entry(Place),
    /// The node of the answer has no name (TMPFILE).
    Nameless,
    /// A name is gone.
    Gone(Place),
    /// A name moved; with `true` the two changed places.
    Moved(Place, Place, bool),
    /// The answer has entries of this directory (READDIRPLUS).
    Entries(u64),
}

impl Lesson {
    /// What is to be learnt from a request that changes or tells names. Others are not looked into.
    pub fn of(message: &Message, dialect: Dialect) -> Option<Lesson> {
        use inflight_fuse::abi::Opcode as Op;
        let header = message.header()?;
        match Op(header.opcode) {
            Op::LOOKUP | Op::CREATE | Op::MKNOD | Op::MKDIR | Op::SYMLINK | Op::LINK => {}
            Op::UNLINK | Op::RMDIR | Op::RENAME | Op::RENAME2 => {}
            Op::TMPFILE => return Some(Lesson::Nameless),
            Op::READDIRPLUS => return Some(Lesson::Entries(header.nodeid)),
            _ => return None,
        }
        let place = |name: &Name| (header.nodeid, name.as_bytes().to_vec());
        Some(match message.peek(dialect).ok()?.operation {
            Operation::Lookup { name }
            | Operation::Symlink { name, .. }
            | Operation::Link { name, .. } => Lesson::Entry(place(&name)),
            Operation::Create(create) => Lesson::Entry(place(&create.name)),
            Operation::Mkdir(node) | Operation::Mknod { node, .. } => {
                Lesson::Entry(place(&node.name))
            }
            Operation::Unlink { name } | Operation::Rmdir { name } => Lesson::Gone(place(&name)),
            Operation::Rename(rename) | Operation::Rename2(rename) => Lesson::Moved(
                place(&rename.name),
                (rename.new_parent, rename.new_name.as_bytes().to_vec()),
                rename.flags & EXCHANGE != 0,
            ),
            _ => return None,
        })
    }
}

#[derive(Debug, Default)]
struct Node {
    /// As the kernel counts them: FORGET brings them back.
    lookups: u64,
    names: BTreeSet<Place>,
}

/// Where a path led.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// To this node.
    Node(u64),
    /// To a name in this directory that is not known yet.
    Unknown(u64, Vec<u8>),
}

/// Nodes that the kernel knows, and their names.
#[derive(Debug, Default)]
pub(super) struct Names {
    nodes: HashMap<u64, Node>,
    children: HashMap<Place, u64>,
}

impl Names {
    /// Takes in a successful answer.
    pub fn learn(&mut self, lesson: Lesson, data: &[u8]) {
        match lesson {
            Lesson::Entry(place) => self.entry(Some(place), data),
            Lesson::Nameless => self.entry(None, data),
            Lesson::Gone(place) => self.remove(&place),
            Lesson::Moved(from, to, exchange) => self.rename(from, to, exchange),
            Lesson::Entries(directory) => self.entries(directory, data),
        }
    }

    fn entry(&mut self, place: Option<Place>, data: &[u8]) {
        let Ok((entry, _)) = EntryOut::read_from_prefix(data) else { return };
        if let Some(place) = &place {
            self.remove(place);
        }
        // A node of 0 is a name that does not exist, to be remembered.
        if entry.nodeid == 0 {
            return;
        }
        self.nodes.entry(entry.nodeid).or_default().lookups += 1;
        // They are other names of nodes whose count they raise.
        if let Some(place) = place.filter(|(_, name)| name != b"." && name != b"..") {
            self.name(entry.nodeid, place);
        }
    }

    fn entries(&mut self, directory: u64, mut data: &[u8]) {
        while let Ok((plus, rest)) = Direntplus::read_from_prefix(data) {
            let len = plus.dirent.namelen as usize;
            let Some(name) = rest.get(..len) else { return };
            let place = (directory, name.to_vec());
            if plus.entry_out.nodeid != 0 {
                self.entry(Some(place), data);
            }
            let step = (size_of::<Direntplus>() + len).next_multiple_of(8);
            let Some(next) = data.get(step..) else { return };
            data = next;
        }
    }

    fn name(&mut self, node: u64, place: Place) {
        self.nodes.entry(node).or_default().names.insert(place.clone());
        self.children.insert(place, node);
    }

    fn remove(&mut self, place: &Place) {
        if let Some(node) = self.children.remove(place)
            && let Some(node) = self.nodes.get_mut(&node)
        {
            node.names.remove(place);
        }
    }

    fn rename(&mut self, from: Place, to: Place, exchange: bool) {
        let at = |names: &Names, place| names.children.get(place).copied();
        let (moved, replaced) = (at(self, &from), at(self, &to));
        self.remove(&from);
        self.remove(&to);
        if let Some(node) = moved {
            self.name(node, to);
        }
        if let Some(node) = replaced.filter(|_| exchange) {
            self.name(node, from);
        }
    }

    /// The kernel gives `count` lookups of a node back. Its number may mean another one after the last.
    pub fn forget(&mut self, node: u64, count: u64) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups == 0 && node != ROOT_ID {
            let names = std::mem::take(&mut known.names);
            self.nodes.remove(&node);
            for place in &names {
                self.children.remove(place);
            }
        }
    }

    /// Follows a path from the root of the mount as far as it is known.
    pub fn find(&self, path: &Path) -> Found {
        let mut node = ROOT_ID;
        for name in path.components() {
            let Component::Normal(name) = name else { continue };
            let place = (node, OsStr::as_bytes(name).to_vec());
            match self.children.get(&place) {
                Some(child) => node = *child,
                None => return Found::Unknown(place.0, place.1),
            }
        }
        Found::Node(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inflight_fuse::{DirEntry, Directory, Entry};
    use zerocopy::IntoBytes as _;

    fn entry(nodeid: u64) -> Entry {
        Entry { nodeid, ..Entry::default() }
    }

    fn learn(names: &mut Names, parent: u64, name: &str, node: u64) {
        let data = EntryOut::from(entry(node));
        names.learn(Lesson::Entry(place(parent, name)), data.as_bytes());
    }

    fn place(parent: u64, name: &str) -> Place {
        (parent, name.into())
    }

    fn find(names: &Names, path: &str) -> Option<u64> {
        match names.find(Path::new(path)) {
            Found::Node(node) => Some(node),
            Found::Unknown(..) => None,
        }
    }

    #[test]
    fn a_path_is_followed_through_renames() {
        let mut names = Names::default();
        learn(&mut names, ROOT_ID, "d", 2);
        learn(&mut names, 2, "f", 3);
        learn(&mut names, ROOT_ID, "g", 4);
        assert_eq!(find(&names, "/d/f"), Some(3));
        names.learn(Lesson::Moved(place(2, "f"), place(1, "g"), true), &[]);
        assert_eq!((find(&names, "/d/f"), find(&names, "/g")), (Some(4), Some(3)));
        names.learn(Lesson::Moved(place(1, "g"), place(2, "f"), false), &[]);
        assert_eq!((find(&names, "/d/f"), find(&names, "/g")), (Some(3), None));
        names.learn(Lesson::Gone(place(2, "f")), &[]);
        assert_eq!(names.find(Path::new("/d/f")), Found::Unknown(2, b"f".to_vec()));
    }

    #[test]
    fn a_forgotten_number_means_nothing_any_more() {
        let mut names = Names::default();
        learn(&mut names, ROOT_ID, "f", 3);
        learn(&mut names, ROOT_ID, "f", 3);
        names.forget(3, 1);
        assert_eq!(find(&names, "/f"), Some(3), "one lookup is left");
        names.forget(3, 1);
        assert_eq!(find(&names, "/f"), None);
        names.forget(3, 1);
    }

    #[test]
    fn entries_with_attributes_count_and_have_names() {
        let mut directory = Directory::new(4096);
        for (name, node) in [(&b"."[..], 0), (b"some name", 5), (b"x", 6)] {
            let item = DirEntry { ino: 1, next: 1, kind: libc::DT_REG, name };
            assert!(directory.add_plus(&item, &entry(node)));
        }
        let mut names = Names::default();
        names.learn(Lesson::Entries(ROOT_ID), &directory.into_bytes());
        assert_eq!((find(&names, "/some name"), find(&names, "/x")), (Some(5), Some(6)));
        names.forget(5, 1);
        assert_eq!(find(&names, "/some name"), None);
    }

    #[test]
    fn a_name_that_does_not_exist_replaces_the_one_that_did() {
        let mut names = Names::default();
        learn(&mut names, ROOT_ID, "f", 3);
        learn(&mut names, ROOT_ID, "f", 0);
        assert_eq!(find(&names, "/f"), None);
    }
}
