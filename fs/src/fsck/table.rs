//! A table under check: the rows that the database has, and what is to become of some of them.
//!
//! Checks read a table from its first row to its last, as it will be once it is corrected, and keep
//! in memory only the corrections. So memory grows with what is wrong, not with what there is.

use crate::errno::{Error, Result};
use crate::fsck::leaves::{self, Leaves};
use crate::fsck::rows::{Lent, OfInode, Row};
use redb::{ReadOnlyTable, Table as WritableTable};
use std::collections::BTreeMap;
use std::collections::btree_map::Range as MapRange;
use std::iter::Peekable;
use std::ops::Bound::{Included, Unbounded};

/// A row that is to be written, or, without a value, to be removed.
pub type Correction<R> = (<R as Row>::Key, Option<<R as Row>::Value>);

/// Where the rows of a table come from.
pub enum Source<R: Row> {
    /// The database gives them.
    Database(Box<ReadOnlyTable<R::DiskKey, R::DiskValue>>),
    /// They were found without it.
    Leaves(Leaves<R>),
    /// There is no such table.
    Nothing,
}

/// Rows that a source has still to give.
enum OpenRange<'t, R: Row> {
    Database(Box<redb::Range<'static, R::DiskKey, R::DiskValue>>),
    Leaves(leaves::From<'t, R>),
    Nothing,
}

impl<R: Row> OpenRange<'_, R> {
    fn next(&mut self) -> Result<Option<Correction<R>>> {
        let rows = match self {
            OpenRange::Database(rows) => rows,
            OpenRange::Leaves(rows) => return rows.next(),
            OpenRange::Nothing => return Ok(None),
        };
        let Some(row) = rows.next() else { return Ok(None) };
        let (key, value) = row?;
        let key = R::own_key(key.value());
        let value = R::own(&key, value.value());
        Ok(Some((key, value)))
    }
}

/// A table and its corrections.
pub struct Table<R: Row> {
    source: Source<R>,
    corrections: BTreeMap<R::Key, Option<R::Value>>,
}

impl<R: Row> Table<R> {
    /// A table as it is.
    pub fn new(source: Source<R>) -> Table<R> {
        Table { source, corrections: BTreeMap::new() }
    }

    /// A row is to have this value.
    pub fn set(&mut self, key: R::Key, value: R::Value) {
        self.corrections.insert(key, Some(value));
    }

    /// A row is to go.
    pub fn remove(&mut self, key: R::Key) {
        self.corrections.insert(key, None);
    }

    /// Takes corrections; of two for one row the later one counts.
    pub fn correct(&mut self, corrections: impl IntoIterator<Item = Correction<R>>) {
        self.corrections.extend(corrections);
    }

    /// Nothing is to be corrected after all.
    pub fn leave(&mut self) {
        self.corrections.clear();
    }

    /// True when nobody can say whether there was such a row.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn is_lost(&self, key: &R::Key) -> Result<bool> {
        match &self.source {
            Source::Database(_) => Ok(false),
            Source::Leaves(leaves) => leaves.is_lost(key),
            Source::Nothing => Ok(true),
        }
    }

    /// The value of a row as it will be.
    ///
    /// # Errors
    /// Those of the database.
    pub fn get(&self, key: &R::Key) -> Result<Option<R::Value>> {
        match self.corrections.get(key) {
            Some(correction) => Ok(correction.clone()),
            None => self.get_original(key),
        }
    }

    /// The value of a row as it is.
    ///
    /// # Errors
    /// Those of the database.
    pub fn get_original(&self, key: &R::Key) -> Result<Option<R::Value>> {
        match &self.source {
            Source::Database(source) => {
                let row = source.get(R::lend_key(key))?;
                Ok(row.and_then(|row| R::own(key, row.value())))
            }
            Source::Leaves(leaves) => leaves.get(key),
            Source::Nothing => Ok(None),
        }
    }

    /// All rows as they will be.
    pub fn rows(&self) -> Rows<'_, R> {
        self.rows_from(None)
    }

    /// As [`Table::rows`], from `key` on.
    pub fn rows_from(&self, key: Option<R::Key>) -> Rows<'_, R> {
        let first = key.as_ref().map_or(Unbounded, Included);
        let corrections = self.corrections.range::<R::Key, _>((first, Unbounded)).peekable();
        Rows { original: self.original_from(key.clone()), held: None, corrections }
    }

    /// All rows as they are.
    pub fn original(&self) -> Original<'_, R> {
        self.original_from(None)
    }

    fn original_from(&self, from: Option<R::Key>) -> Original<'_, R> {
        Original { source: &self.source, from, open: None, last: None }
    }

    /// Writes the corrections to the table that was read.
    ///
    /// # Errors
    /// Those of the database.
    pub fn store(&self, table: &mut WritableTable<'_, R::DiskKey, R::DiskValue>) -> Result<()> {
        for (key, value) in &self.corrections {
            match value {
                Some(value) => R::put(table, key, value)?,
                None => drop(table.remove(R::lend_key(key))?),
            }
        }
        Ok(())
    }
}

impl<R: OfInode> Table<R> {
    /// The rows of one inode, as they will be.
    ///
    /// # Errors
    /// Those of the database.
    pub fn of_inode(&self, ino: u64) -> Result<Vec<(R::Key, R::Value)>> {
        let mut rows = self.rows_from(Some(R::first_of(ino)));
        let mut all = Vec::new();
        while let Some((key, value)) = rows.next()?.filter(|(key, _)| R::inode(key) == ino) {
            all.push((key, value));
        }
        Ok(all)
    }
}

/// The rows of a table as they are, in order; a row that is malformed has no value.
pub struct Original<'t, R: Row> {
    source: &'t Source<R>,
    from: Option<R::Key>,
    open: Option<OpenRange<'t, R>>,
    last: Option<R::Key>,
}

impl<'t, R: Row> Original<'t, R> {
    /// The next row.
    ///
    /// # Errors
    /// Those of the database, and when rows are out of order.
    pub fn next(&mut self) -> Result<Option<Correction<R>>> {
        let mut rows = match self.open.take() {
            Some(rows) => rows,
            None => self.enter()?,
        };
        let row = rows.next()?;
        self.open = Some(rows);
        let Some((key, value)) = row else { return Ok(None) };
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            return Err(Error::Corrupt("rows are out of order".into()));
        }
        self.last = Some(key.clone());
        Ok(Some((key, value)))
    }

    fn enter(&mut self) -> Result<OpenRange<'t, R>> {
        let from = self.from.take();
        Ok(match self.source {
            Source::Database(table) => {
                let from = from.as_ref().map_or(Unbounded, |key| Included(R::lend_key(key)));
                let rows = table.range::<Lent<'_, R::DiskKey>>((from, Unbounded))?;
                OpenRange::Database(Box::new(rows))
            }
            Source::Leaves(leaves) => OpenRange::Leaves(leaves.from(from.as_ref())),
            Source::Nothing => OpenRange::Nothing,
        })
    }
}

/// The rows of a table as they will be, in order.
pub struct Rows<'t, R: Row> {
    original: Original<'t, R>,
    held: Option<Correction<R>>,
    corrections: Peekable<MapRange<'t, R::Key, Option<R::Value>>>,
}

impl<R: Row> Rows<'_, R> {
    /// The next row that is not malformed.
    ///
    /// # Errors
    /// As for [`Original::next`].
    pub fn next(&mut self) -> Result<Option<(R::Key, R::Value)>> {
        loop {
            match self.next_or_malformed()? {
                Some((key, Some(value))) => return Ok(Some((key, value))),
                Some((_, None)) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next row; one that is malformed, and that nobody has corrected, has no value.
    ///
    /// # Errors
    /// As for [`Original::next`].
    pub fn next_or_malformed(&mut self) -> Result<Option<Correction<R>>> {
        loop {
            if self.held.is_none() {
                self.held = self.original.next()?;
            }
            let correction = match (&self.held, self.corrections.peek()) {
                (Some((key, _)), Some((other, _))) if *other <= key => self.corrections.next(),
                (Some(_), _) => return Ok(self.held.take()),
                (None, _) => self.corrections.next(),
            };
            let Some((key, value)) = correction else { return Ok(None) };
            if self.held.as_ref().is_some_and(|(held, _)| held == key) {
                self.held = None;
            }
            if let Some(value) = value {
                return Ok(Some((key.clone(), Some(value.clone()))));
            }
        }
    }
}

/// The rows of a table that follows the order of the inodes, taken inode by inode.
pub struct Followers<'t, R: OfInode> {
    rows: Rows<'t, R>,
    held: Option<(R::Key, R::Value)>,
}

impl<'t, R: OfInode> Followers<'t, R> {
    /// The rows of `table`.
    pub fn new(table: &'t Table<R>) -> Followers<'t, R> {
        Followers { rows: table.rows(), held: None }
    }

    /// The next row of `ino` or of an inode before it.
    ///
    /// # Errors
    /// As for [`Original::next`].
    pub fn next_upto(&mut self, ino: u64) -> Result<Option<(R::Key, R::Value)>> {
        if self.held.is_none() {
            self.held = self.rows.next()?;
        }
        let due = self.held.as_ref().is_some_and(|(key, _)| R::inode(key) <= ino);
        Ok(if due { self.held.take() } else { None })
    }
}
