//! Entries of a directory, packed as READDIR and READDIRPLUS want them.

use super::reply::{Data, Reply};
use crate::abi::{self, Dirent};
use crate::attr::Entry;
use zerocopy::IntoBytes as _;

/// Entries start at multiples of this many bytes (`FUSE_DIRENT_ALIGN`).
const ALIGN: usize = 8;

/// One entry.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Inode number as readdir(3) shows it.
    pub ino: u64,
    /// Offset of the READDIR that goes on after this entry; never 0.
    pub next: u64,
    /// Type, `DT_*`, which is `mode >> 12`.
    pub kind: u8,
    /// Its name.
    pub name: &'a [u8],
}

/// The answer to READDIR or READDIRPLUS: as many entries as the size asked for has room for.
#[derive(Debug)]
pub struct Directory {
    bytes: Vec<u8>,
    limit: usize,
}

impl Directory {
    /// An answer of at most `limit` bytes, which is the `size` of the request.
    pub fn new(limit: u32) -> Directory {
        Directory { bytes: Vec::new(), limit: limit as usize }
    }

    /// Adds an entry for READDIR. False when there is no room; the next request asks for it.
    #[must_use]
    pub fn add(&mut self, entry: &DirEntry<'_>) -> bool {
        self.put(&[], entry)
    }

    /// Adds an entry for READDIRPLUS; when it is added, that counts as a lookup of the inode,
    /// unless its `nodeid` is 0 ("." and "..", or attributes that are not at hand).
    #[must_use]
    pub fn add_plus(&mut self, entry: &DirEntry<'_>, attributes: &Entry) -> bool {
        self.put(abi::EntryOut::from(*attributes).as_bytes(), entry)
    }

    fn put(&mut self, before: &[u8], entry: &DirEntry<'_>) -> bool {
        let len = before.len() + size_of::<Dirent>() + entry.name.len();
        let end = self.bytes.len() + len.next_multiple_of(ALIGN);
        if end > self.limit {
            return false;
        }
        let dirent = Dirent {
            ino: entry.ino,
            off: entry.next,
            namelen: entry.name.len() as u32,
            r#type: entry.kind.into(),
        };
        self.bytes.extend_from_slice(before);
        self.bytes.extend_from_slice(dirent.as_bytes());
        self.bytes.extend_from_slice(entry.name);
        self.bytes.resize(end, 0);
        true
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no entry yet; as an answer, the end of the directory.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl From<Directory> for Reply {
    fn from(directory: Directory) -> Reply {
        Reply::Data(Data::from(directory.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes as _;

    #[test]
    fn entries_are_aligned_and_stop_at_the_limit() {
        let mut directory = Directory::new(64);
        let entry = DirEntry { ino: 5, next: 1, kind: libc::DT_REG, name: b"abc" };
        assert!(directory.add(&entry));
        assert_eq!(directory.len(), 32);
        assert!(directory.add(&DirEntry { name: b"12345678", ..entry }));
        assert_eq!(directory.len(), 64);
        assert!(!directory.add(&DirEntry { name: b"", ..entry }));
        let bytes = directory.into_bytes();
        let (dirent, rest) = Dirent::read_from_prefix(&bytes).unwrap();
        assert_eq!((dirent.ino, dirent.off, dirent.namelen, dirent.r#type), (5, 1, 3, 8));
        assert_eq!(&rest[..8], b"abc\0\0\0\0\0");
    }

    #[test]
    fn an_entry_with_attributes_is_larger_by_them() {
        let mut directory = Directory::new(4096);
        let entry = DirEntry { ino: 5, next: 1, kind: libc::DT_REG, name: b"a" };
        assert!(directory.add_plus(&entry, &Entry::default()));
        assert_eq!(directory.len(), 128 + 32);
    }
}
