//! A table of a database that cannot be opened: its leaves, found without it.

use crate::errno::Result;
use crate::fsck::rows::Row;
use crate::fsck::table::Correction;
use crate::fsck::walk::{Bounds, Met};
use crate::image::guard::guard;
use crate::image::metastore::MetaStore;
use crate::image::pages::Place;
use crate::image::pages::node::Leaf;
use parking_lot::Mutex;
use redb::{Key as _, Value as _};
use std::cmp::Ordering;
use std::sync::Arc;

/// The rows of a leaf, in order.
type Lines<R> = Arc<Vec<Correction<R>>>;

/// Where the rows of a leaf are.
enum Body<R: Row> {
    /// In the image; the page was whole.
    Page(Place),
    /// Here: what a damaged page still gave.
    Rows(Lines<R>),
}

/// The leaves of a table, in order.
pub struct Leaves<R: Row> {
    meta: Arc<MetaStore>,
    /// First key and rows.
    list: Vec<(R::Key, Body<R>)>,
    /// First and last keys of leaves that nothing leads to.
    adopted: Vec<(R::Key, R::Key, Place)>,
    /// Other leaves were lost.
    has_gaps: bool,
    /// The leaf that was read last.
    recent: Mutex<Option<(usize, Lines<R>)>>,
}

impl<R: Row> Leaves<R> {
    /// A table without rows.
    pub fn new(meta: Arc<MetaStore>) -> Leaves<R> {
        let (list, adopted) = (Vec::new(), Vec::new());
        Leaves { meta, list, adopted, has_gaps: false, recent: Mutex::new(None) }
    }

    /// Takes what a walk meets.
    pub fn take(&mut self, met: Met<'_>) {
        match met {
            Met::Lost => self.has_gaps = true,
            Met::Whole(place, leaf) => match first_key::<R>(&leaf) {
                Some(first) => self.list.push((first, Body::Page(place))),
                None => self.has_gaps = true,
            },
            Met::Damaged(leaf, bounds) => {
                self.has_gaps = true;
                let rows = if R::OUTLIVES_DAMAGE { plausible::<R>(&leaf, &bounds) } else { vec![] };
                if let Some((first, _)) = rows.first() {
                    self.list.push((first.clone(), Body::Rows(Arc::new(rows))));
                }
            }
        }
    }

    /// Offers a leaf that nothing leads to; `false` when it cannot be one of this table.
    pub fn adopt(
        &mut self,
        place: Place,
        page: &[u8],
        is_own: impl Fn(&R::Key, &R::Value) -> bool,
    ) -> bool {
        let rows = guard("reading a page", || Ok(decode::<R>(page).unwrap_or_default()));
        let rows = rows.unwrap_or_default();
        let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) else { return false };
        let in_order = rows.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !in_order || !rows.iter().all(|(k, v)| v.as_ref().is_some_and(|v| is_own(k, v))) {
            return false;
        }
        self.adopted.push((first.clone(), last.clone(), place));
        true
    }

    /// Files the adopted leaves. One that overlaps another is of an earlier time, and nobody can say
    /// which of the two is.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn settle(&mut self) -> Result<()> {
        let mut adopted = std::mem::take(&mut self.adopted);
        adopted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut reach: Option<R::Key> = None;
        let mut good = Vec::new();
        for (n, (first, last, place)) in adopted.iter().enumerate() {
            let before = reach.as_ref().is_some_and(|reach| reach >= first);
            let behind = adopted.get(n + 1).is_some_and(|(next, _, _)| next <= last);
            if !before && !behind && self.is_vacant(first, last)? {
                good.push((first.clone(), Body::Page(*place)));
            }
            reach = reach.max(Some(last.clone()));
        }
        self.list.append(&mut good);
        self.list.sort_by(|a, b| a.0.cmp(&b.0));
        *self.recent.lock() = None;
        Ok(())
    }

    /// Number of leaves.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Some leaves were lost.
    pub fn has_gaps(&self) -> bool {
        self.has_gaps
    }

    /// True when a row of this key may have been lost.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn is_lost(&self, key: &R::Key) -> Result<bool> {
        if !self.has_gaps {
            return Ok(false);
        }
        let Some(leaf) = self.leaf_of(key) else { return Ok(true) };
        let is_whole = matches!(self.list[leaf].1, Body::Page(_));
        Ok(!is_whole || self.lines(leaf)?.last().is_none_or(|(last, _)| last < key))
    }

    /// The value of a row; `None` when it is malformed, or not there.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn get(&self, key: &R::Key) -> Result<Option<R::Value>> {
        let Some(leaf) = self.leaf_of(key) else { return Ok(None) };
        let rows = self.lines(leaf)?;
        let found = rows.binary_search_by(|(other, _)| other.cmp(key)).ok();
        Ok(found.and_then(|at| rows[at].1.clone()))
    }

    /// The last key of all.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn last(&self) -> Result<Option<R::Key>> {
        let Some(leaf) = self.list.len().checked_sub(1) else { return Ok(None) };
        Ok(self.lines(leaf)?.last().map(|(key, _)| key.clone()))
    }

    /// The rows from `key` on.
    pub fn from(&self, key: Option<&R::Key>) -> From<'_, R> {
        let leaf = key.and_then(|key| self.leaf_of(key)).unwrap_or(0);
        From { leaves: self, leaf, key: key.cloned(), open: None }
    }

    /// Whether no leaf that something leads to has keys in `[first, last]`.
    fn is_vacant(&self, first: &R::Key, last: &R::Key) -> Result<bool> {
        let behind = self.list.partition_point(|(key, _)| key <= first);
        let clear = self.list.get(behind).is_none_or(|(key, _)| key > last);
        let Some(before) = behind.checked_sub(1) else { return Ok(clear) };
        Ok(clear && self.lines(before)?.last().is_some_and(|(key, _)| key < first))
    }

    /// The leaf that a key is in, if it is anywhere.
    fn leaf_of(&self, key: &R::Key) -> Option<usize> {
        self.list.partition_point(|(first, _)| first <= key).checked_sub(1)
    }

    fn lines(&self, leaf: usize) -> Result<Lines<R>> {
        let place = match &self.list[leaf].1 {
            Body::Rows(rows) => return Ok(rows.clone()),
            Body::Page(place) => *place,
        };
        let mut recent = self.recent.lock();
        if let Some((_, rows)) = recent.as_ref().filter(|(n, _)| *n == leaf) {
            return Ok(rows.clone());
        }
        let page = self.meta.page(place)?;
        let rows = Arc::new(page.and_then(|page| decode::<R>(&page.bytes)).unwrap_or_default());
        *recent = Some((leaf, rows.clone()));
        Ok(rows)
    }
}

/// The rows of a table from a key on.
pub struct From<'t, R: Row> {
    leaves: &'t Leaves<R>,
    leaf: usize,
    key: Option<R::Key>,
    open: Option<(Lines<R>, usize)>,
}

impl<R: Row> From<'_, R> {
    /// The next row; one that is malformed has no value.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn next(&mut self) -> Result<Option<Correction<R>>> {
        loop {
            if let Some((rows, at)) = &mut self.open
                && let Some(row) = rows.get(*at)
            {
                *at += 1;
                return Ok(Some(row.clone()));
            }
            if self.leaf >= self.leaves.list.len() {
                return Ok(None);
            }
            let rows = self.leaves.lines(self.leaf)?;
            let key = self.key.take();
            let at = key.map_or(0, |key| rows.partition_point(|(other, _)| *other < key));
            self.open = Some((rows, at));
            self.leaf += 1;
        }
    }
}

fn leaf<R: Row>(page: &[u8]) -> Option<Leaf<'_>> {
    Leaf::new(page, R::DiskKey::fixed_width(), R::DiskValue::fixed_width())
}

fn first_key<R: Row>(leaf: &Leaf<'_>) -> Option<R::Key> {
    let (key, _) = leaf.row(0)?;
    guard("reading a page", || Ok(R::own_key(R::DiskKey::from_bytes(key)))).ok()
}

/// All rows of a page; `None` when some do not lie in it.
fn decode<R: Row>(page: &[u8]) -> Option<Vec<Correction<R>>> {
    Some(leaf::<R>(page)?.rows()?.into_iter().map(|row| own::<R>(row)).collect())
}

fn own<R: Row>((key, value): (&[u8], &[u8])) -> Correction<R> {
    let key = R::own_key(R::DiskKey::from_bytes(key));
    let value = R::own(&key, R::DiskValue::from_bytes(value));
    (key, value)
}

/// The rows of a damaged leaf that are not malformed, in order among themselves, and where the
/// pages above expect them.
fn plausible<R: Row>(leaf: &Leaf<'_>, (low, high): &Bounds) -> Vec<Correction<R>> {
    let compare =
        |a: &[u8], b: &[u8]| guard("comparing keys", || Ok(R::DiskKey::compare(a, b))).ok();
    let is_inside = |key: &[u8]| {
        let low = low.as_ref().map(|low| compare(low, key) == Some(Ordering::Less));
        let high = high.as_ref().map(|high| matches!(compare(key, high), Some(o) if o.is_le()));
        low.unwrap_or(true) && high.unwrap_or(true)
    };
    let rows = (0..leaf.len()).filter_map(|n| leaf.row(n)).filter(|(key, _)| is_inside(key));
    let rows = rows.filter_map(|row| guard("reading a row", || Ok(own::<R>(row))).ok());
    let rows: Vec<Correction<R>> = rows.filter(|(_, value)| value.is_some()).collect();
    let fits = |n: usize| {
        (n == 0 || rows[n - 1].0 < rows[n].0)
            && rows.get(n + 1).is_none_or(|next| rows[n].0 < next.0)
    };
    let kept: Vec<_> = (0..rows.len()).filter(|n| fits(*n)).map(|n| rows[n].clone()).collect();
    let in_order = kept.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if in_order { kept } else { Vec::new() }
}
