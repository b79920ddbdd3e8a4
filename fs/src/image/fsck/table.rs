//! A table under check: the rows that the database has, and what is to become of some of them.
//!
//! Checks read a table from its first row to its last, as it will be once it is corrected, and keep
//! in memory only the corrections. So memory grows with what is wrong, not with what there is.

use crate::errno::{Error, Result};
use crate::image::fsck::readable::Readable;
use crate::image::fsck::rows::{Lent, OfInode, Row};
use redb::{ReadOnlyTable, Table as WritableTable};
use std::collections::BTreeMap;
use std::collections::btree_map::Range as MapRange;
use std::iter::Peekable;
use std::ops::Bound::{Included, Unbounded};

/// A row that is to be written, or, without a value, to be removed.
pub type Correction<R> = (<R as Row>::Key, Option<<R as Row>::Value>);

/// A table that is read.
pub type Source<R> = ReadOnlyTable<<R as Row>::DiskKey, <R as Row>::DiskValue>;

/// Rows that the database has still to give.
type OpenRange<R> = redb::Range<'static, <R as Row>::DiskKey, <R as Row>::DiskValue>;

/// A table and its corrections.
pub struct Table<R: Row> {
    /// `None` when it cannot be read at all.
    source: Option<Source<R>>,
    /// What of it can be read; `None` when all is believed to.
    readable: Option<Readable<R::Key>>,
    corrections: BTreeMap<R::Key, Option<R::Value>>,
}

impl<R: Row> Table<R> {
    /// A table as it is.
    pub fn new(source: Option<Source<R>>, readable: Option<Readable<R::Key>>) -> Table<R> {
        Table { source, readable, corrections: BTreeMap::new() }
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

    /// True when nobody can say whether there was such a row.
    pub fn is_lost(&self, key: &R::Key) -> bool {
        match &self.readable {
            Some(readable) => readable.is_lost(key),
            None => self.source.is_none(),
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
        let readable = self.readable.as_ref().is_none_or(|r| r.holds(key));
        let Some(source) = self.source.as_ref().filter(|_| readable) else { return Ok(None) };
        let row = source.get(R::lend_key(key))?;
        Ok(row.and_then(|row| R::own(key, row.value())))
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
        let stretches = self.readable.as_ref().map(|r| r.stretches());
        Original { source: self.source.as_ref(), stretches, from, open: None, last: None }
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
    source: Option<&'t Source<R>>,
    /// First and last keys of what can still be read; `None` stands for everything, once.
    stretches: Option<std::slice::Iter<'t, (R::Key, R::Key)>>,
    /// Where the first stretch is entered.
    from: Option<R::Key>,
    /// The stretch that is being read, and its last key.
    open: Option<(OpenRange<R>, Option<&'t R::Key>)>,
    last: Option<R::Key>,
}

impl<R: Row> Original<'_, R> {
    /// The next row.
    ///
    /// # Errors
    /// Those of the database, and when rows are out of order.
    pub fn next(&mut self) -> Result<Option<Correction<R>>> {
        loop {
            if self.open.is_none() && !self.enter()? {
                return Ok(None);
            }
            let Some((rows, end)) = &mut self.open else { continue };
            let Some(row) = rows.next() else {
                self.open = None;
                continue;
            };
            let (key, value) = row?;
            let key = R::own_key(key.value());
            if self.last.as_ref().is_some_and(|last| *last >= key) {
                return Err(Error::Corrupt("rows are out of order".into()));
            }
            // What follows the last row that can be read is not even touched.
            if end.is_some_and(|end| *end <= key) {
                self.open = None;
            }
            let value = R::own(&key, value.value());
            self.last = Some(key.clone());
            return Ok(Some((key, value)));
        }
    }

    /// Opens the next stretch; `false` when there is none.
    fn enter(&mut self) -> Result<bool> {
        let Some(source) = self.source else { return Ok(false) };
        let (first, end) = match &mut self.stretches {
            None => {
                // The whole table, once.
                self.source = None;
                (None, None)
            }
            Some(stretches) => {
                let from = self.from.as_ref();
                let next = stretches.find(|(_, end)| from.is_none_or(|from| from <= end));
                let Some((first, end)) = next else { return Ok(false) };
                (Some(first), Some(end))
            }
        };
        let from = self.from.take();
        let from = from.as_ref().max(first);
        self.open = Some((open_from::<R>(source, from)?, end));
        Ok(true)
    }
}

/// The rows from `key` on.
pub fn open_from<R: Row>(source: &Source<R>, key: Option<&R::Key>) -> Result<OpenRange<R>> {
    let from = key.map_or(Unbounded, |key| Included(R::lend_key(key)));
    Ok(source.range::<Lent<'_, R::DiskKey>>((from, Unbounded))?)
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
