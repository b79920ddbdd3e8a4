//! The tables under check: what their rows are in memory and on disk.

use crate::image::tables::{
    self, Attr, COUNTERS, EXTENTS, Extent, FREE, GROUPS, INODES, InodeRow, NAMES, ORPHANS, TARGETS,
    XATTRS,
};
use redb::{StorageError, Table, TableDefinition, Value};
use zerocopy::IntoBytes as _;

/// A key or value as the database lends it.
pub type Lent<'a, V> = <V as Value>::SelfType<'a>;

/// A kind of row.
pub trait Row: 'static {
    /// Key in memory, in the order of the table.
    type Key: Ord + Clone;
    /// Value in memory.
    type Value: Clone;
    /// Key on disk.
    type DiskKey: redb::Key + 'static;
    /// Value on disk.
    type DiskValue: Value + 'static;
    /// What a leaf without its checksum still says is believed as far as it passes the checks: what
    /// is wrong there shows nobody the data of others.
    const OUTLIVES_DAMAGE: bool = false;
    /// The table.
    const TABLE: TableDefinition<'static, Self::DiskKey, Self::DiskValue>;

    /// Copies a key.
    fn own_key(key: Lent<'_, Self::DiskKey>) -> Self::Key;

    /// Shows a key to the database.
    fn lend_key(key: &Self::Key) -> Lent<'_, Self::DiskKey>;

    /// Decodes a value; `None` when the row is malformed.
    fn own(key: &Self::Key, value: Lent<'_, Self::DiskValue>) -> Option<Self::Value>;

    /// Writes a row.
    ///
    /// # Errors
    /// Those of the database.
    fn put(
        table: &mut Table<'_, Self::DiskKey, Self::DiskValue>,
        key: &Self::Key,
        value: &Self::Value,
    ) -> Result<(), StorageError>;
}

/// A table whose key begins with the number of an inode.
pub trait OfInode: Row {
    /// The inode that a row belongs to.
    fn inode(key: &Self::Key) -> u64;

    /// The first key that an inode may have.
    fn first_of(ino: u64) -> Self::Key;
}

/// Table `inodes`.
pub enum Inodes {}
/// Table `names`: key to child and DT_* type.
pub enum Names {}
/// Table `extents`.
pub enum Extents {}
/// Table `targets`.
pub enum Targets {}
/// Table `xattrs`.
pub enum Xattrs {}
/// Table `orphans`.
pub enum Orphans {}
/// Table `groups`.
pub enum Groups {}
/// Table `free`.
pub enum Free {}
/// Table `counters`.
pub enum Counters {}

/// The parts of [`Row`] that tables with a number for a key share.
macro_rules! keyed_by_number {
    () => {
        type Key = u64;
        type DiskKey = u64;

        fn own_key(key: u64) -> u64 {
            key
        }

        fn lend_key(key: &u64) -> u64 {
            *key
        }
    };
}

/// ... and those whose value is bytes.
macro_rules! bytes {
    () => {
        type Value = Vec<u8>;
        type DiskValue = &'static [u8];

        fn own(_: &Self::Key, value: &[u8]) -> Option<Vec<u8>> {
            Some(value.to_vec())
        }

        fn put(
            table: &mut Table<'_, Self::DiskKey, &'static [u8]>,
            key: &Self::Key,
            value: &Vec<u8>,
        ) -> Result<(), StorageError> {
            table.insert(Self::lend_key(key), value.as_slice()).map(drop)
        }
    };
}

impl Row for Inodes {
    const OUTLIVES_DAMAGE: bool = true;
    keyed_by_number!();
    type Value = Attr;
    type DiskValue = &'static [u8];
    const TABLE: TableDefinition<'static, u64, &'static [u8]> = INODES;

    fn own(ino: &u64, value: &[u8]) -> Option<Attr> {
        InodeRow::decode(value).filter(|_| (1..=tables::INODE_MAX).contains(ino))
    }

    fn put(
        table: &mut Table<'_, u64, &'static [u8]>,
        ino: &u64,
        attr: &Attr,
    ) -> Result<(), StorageError> {
        table.insert(*ino, InodeRow::new(attr).as_bytes()).map(drop)
    }
}

impl Row for Targets {
    const OUTLIVES_DAMAGE: bool = true;
    keyed_by_number!();
    bytes!();
    const TABLE: TableDefinition<'static, u64, &'static [u8]> = TARGETS;
}

impl Row for Groups {
    keyed_by_number!();
    bytes!();
    const TABLE: TableDefinition<'static, u64, &'static [u8]> = GROUPS;
}

impl Row for Free {
    keyed_by_number!();
    bytes!();
    const TABLE: TableDefinition<'static, u64, &'static [u8]> = FREE;
}

impl Row for Orphans {
    keyed_by_number!();
    type Value = ();
    type DiskValue = ();
    const TABLE: TableDefinition<'static, u64, ()> = ORPHANS;

    fn own(_: &u64, (): ()) -> Option<()> {
        Some(())
    }

    fn put(table: &mut Table<'_, u64, ()>, ino: &u64, (): &()) -> Result<(), StorageError> {
        table.insert(*ino, ()).map(drop)
    }
}

impl Row for Names {
    const OUTLIVES_DAMAGE: bool = true;
    type Key = Vec<u8>;
    type Value = (u64, u8);
    type DiskKey = &'static [u8];
    type DiskValue = &'static [u8];
    const TABLE: TableDefinition<'static, &'static [u8], &'static [u8]> = NAMES;

    fn own_key(key: &[u8]) -> Vec<u8> {
        key.to_vec()
    }

    fn lend_key(key: &Vec<u8>) -> &[u8] {
        key
    }

    fn own(key: &Vec<u8>, value: &[u8]) -> Option<(u64, u8)> {
        tables::split_name_value(value).filter(|_| value.len() == 9 && key.len() >= 16)
    }

    fn put(
        table: &mut Table<'_, &'static [u8], &'static [u8]>,
        key: &Vec<u8>,
        (child, kind): &(u64, u8),
    ) -> Result<(), StorageError> {
        table.insert(key.as_slice(), tables::name_value(*child, *kind).as_slice()).map(drop)
    }
}

impl Row for Extents {
    type Key = (u64, u64);
    type Value = Extent;
    type DiskKey = (u64, u64);
    type DiskValue = (u64, u64);
    const TABLE: TableDefinition<'static, (u64, u64), (u64, u64)> = EXTENTS;

    fn own_key(key: (u64, u64)) -> (u64, u64) {
        key
    }

    fn lend_key(key: &(u64, u64)) -> (u64, u64) {
        *key
    }

    fn own(_: &(u64, u64), value: (u64, u64)) -> Option<Extent> {
        Some(Extent::unpack(value))
    }

    fn put(
        table: &mut Table<'_, (u64, u64), (u64, u64)>,
        key: &(u64, u64),
        extent: &Extent,
    ) -> Result<(), StorageError> {
        table.insert(*key, extent.pack()).map(drop)
    }
}

impl Row for Xattrs {
    const OUTLIVES_DAMAGE: bool = true;
    type Key = (u64, Vec<u8>);
    type Value = Vec<u8>;
    type DiskKey = (u64, &'static [u8]);
    type DiskValue = &'static [u8];
    const TABLE: TableDefinition<'static, (u64, &'static [u8]), &'static [u8]> = XATTRS;

    fn own_key((ino, name): (u64, &[u8])) -> (u64, Vec<u8>) {
        (ino, name.to_vec())
    }

    fn lend_key((ino, name): &(u64, Vec<u8>)) -> (u64, &[u8]) {
        (*ino, name)
    }

    fn own(_: &(u64, Vec<u8>), value: &[u8]) -> Option<Vec<u8>> {
        Some(value.to_vec())
    }

    fn put(
        table: &mut Table<'_, (u64, &'static [u8]), &'static [u8]>,
        (ino, name): &(u64, Vec<u8>),
        value: &Vec<u8>,
    ) -> Result<(), StorageError> {
        table.insert((*ino, name.as_slice()), value.as_slice()).map(drop)
    }
}

impl Row for Counters {
    type Key = String;
    type Value = u64;
    type DiskKey = &'static str;
    type DiskValue = u64;
    const TABLE: TableDefinition<'static, &'static str, u64> = COUNTERS;

    fn own_key(key: &str) -> String {
        key.to_owned()
    }

    fn lend_key(key: &String) -> &str {
        key
    }

    fn own(_: &String, value: u64) -> Option<u64> {
        Some(value)
    }

    fn put(
        table: &mut Table<'_, &'static str, u64>,
        name: &String,
        n: &u64,
    ) -> Result<(), StorageError> {
        table.insert(name.as_str(), *n).map(drop)
    }
}

impl OfInode for Targets {
    fn inode(key: &u64) -> u64 {
        *key
    }

    fn first_of(ino: u64) -> u64 {
        ino
    }
}

impl OfInode for Extents {
    fn inode((ino, _): &(u64, u64)) -> u64 {
        *ino
    }

    fn first_of(ino: u64) -> (u64, u64) {
        (ino, 0)
    }
}

impl OfInode for Xattrs {
    fn inode((ino, _): &(u64, Vec<u8>)) -> u64 {
        *ino
    }

    fn first_of(ino: u64) -> (u64, Vec<u8>) {
        (ino, Vec::new())
    }
}
