//! What of a damaged table can still be read.
//!
//! A page that is lost takes the rows below it along, and nobody says which keys those were: so keys
//! are tried, farther and farther behind the last row that could be read, until one is met again.

use crate::errno::{Error, Result};
use crate::image::fsck::rows::Row;
use crate::image::fsck::table::{Source, open_from};
use crate::image::guard::guard;
use std::collections::VecDeque;

/// Most attempts at one table: what lies behind the last of them is given up.
const ATTEMPTS_MAX: usize = 1 << 12;
/// Rows that are looked at again when reading breaks off: more than a leaf has.
const LATEST: usize = 1024;

/// The stretches of a table that can be read, in order.
pub struct Readable<K> {
    stretches: Vec<(K, K)>,
    /// Something between them, before or behind them cannot.
    has_gaps: bool,
}

impl<K: Ord> Readable<K> {
    /// First and last keys.
    pub fn stretches(&self) -> std::slice::Iter<'_, (K, K)> {
        self.stretches.iter()
    }

    /// True when a row of this key would be seen.
    pub fn holds(&self, key: &K) -> bool {
        let after = self.stretches.partition_point(|(first, _)| first <= key);
        after.checked_sub(1).is_some_and(|i| self.stretches[i].1 >= *key)
    }

    /// True when a row of this key may have been lost.
    pub fn is_lost(&self, key: &K) -> bool {
        self.has_gaps && !self.holds(key)
    }
}

/// Tries a table from its first row to its last; also says what went wrong first.
pub fn readable<R: Row>(what: &str, table: &Source<R>) -> (Readable<R::Key>, Option<Error>) {
    let mut found: Readable<R::Key> = Readable { stretches: Vec::new(), has_gaps: false };
    let mut problem = None;
    let mut place = 0;
    for _ in 0..ATTEMPTS_MAX {
        let from = R::first_at(place);
        let mut seen = None;
        let before = found.stretches.last().map(|(_, last)| last.clone());
        let walked = walk::<R>(what, table, &from, before, &mut seen);
        let next = seen.as_ref().map_or(place, |(_, last)| R::place(last));
        found.stretches.extend(seen);
        let Err(e) = walked else { return (found, problem) };
        tracing::debug!("{what}: {e}");
        problem.get_or_insert(e);
        found.has_gaps = true;
        match behind_gap(next, |place| can_begin_at::<R>(what, table, place)) {
            Some(next) => place = next,
            None => break,
        }
    }
    found.has_gaps = true;
    (found, problem)
}

/// Reads rows from `from` on, all behind `before`; `seen` becomes the first and the last of them.
fn walk<R: Row>(
    what: &str,
    table: &Source<R>,
    from: &R::Key,
    before: Option<R::Key>,
    seen: &mut Option<(R::Key, R::Key)>,
) -> Result<()> {
    let mut latest = VecDeque::new();
    let walked = guard(what, || {
        let mut before = before;
        for row in open_from::<R>(table, Some(from))? {
            let (key, value) = row?;
            let key = R::own_key(key.value());
            // Decoding too must not fail once it is relied on.
            drop(R::own(&key, value.value()));
            // Pages that point at each other can make a table look endless, but not in order.
            if before.as_ref().is_some_and(|before| *before >= key) || key < *from {
                return Err(Error::Corrupt("rows are out of order".into()));
            }
            if latest.len() == LATEST {
                latest.pop_front();
            }
            latest.push_back(key.clone());
            before = Some(key.clone());
            match seen {
                Some((_, last)) => *last = key,
                None => *seen = Some((key.clone(), key)),
            }
        }
        Ok(())
    });
    if walked.is_err() {
        // A damaged leaf may make up a key that lies behind everything else there is.
        let last = latest.iter().rev().find(|key| is_found::<R>(what, table, key));
        *seen = match (seen.take(), last) {
            (Some((first, _)), Some(last)) => Some((first, last.clone())),
            _ => None,
        };
    }
    walked
}

/// Whether a row is where the pages above it say.
fn is_found<R: Row>(what: &str, table: &Source<R>, key: &R::Key) -> bool {
    guard(what, || Ok(table.get(R::lend_key(key))?.is_some())).unwrap_or(false)
}

/// Whether reading can begin at a place: with a row, or with the end of the table.
fn can_begin_at<R: Row>(what: &str, table: &Source<R>, place: u128) -> bool {
    let from = R::first_at(place);
    let first = guard(what, || {
        let Some(row) = open_from::<R>(table, Some(&from))?.next() else { return Ok(None) };
        let (key, value) = row?;
        let key = R::own_key(key.value());
        // A value may lie outside its page.
        drop(R::own(&key, value.value()));
        Ok(Some(key))
    });
    match first {
        Ok(Some(key)) => key >= from && is_found::<R>(what, table, &key),
        Ok(None) => true,
        Err(_) => false,
    }
}

/// The first good place behind `bad`, as far as doubling steps find one.
fn behind_gap(bad: u128, is_good: impl Fn(u128) -> bool) -> Option<u128> {
    let (mut bad, mut step) = (bad, 1u128);
    let mut good = loop {
        let place = bad.checked_add(step)?;
        if is_good(place) {
            break place;
        }
        (bad, step) = (place, step.checked_mul(2)?);
    };
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        *(if is_good(middle) { &mut good } else { &mut bad }) = middle;
    }
    Some(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_a_gap_is_found() {
        assert_eq!(behind_gap(10, |place| place >= 11), Some(11));
        assert_eq!(behind_gap(10, |place| place >= 1 << 100), Some(1 << 100));
        assert_eq!(behind_gap(10, |_| false), None);
        let two_gaps = |place| (20..25).contains(&place) || place > 30;
        assert_eq!(behind_gap(10, two_gaps), Some(31), "steps may pass over what lies between");
    }

    #[test]
    fn what_is_lost_lies_outside_all_stretches_of_a_table_with_gaps() {
        let mut readable = Readable { stretches: vec![(3, 5), (9, 9)], has_gaps: true };
        assert_eq!(
            [2, 3, 5, 6, 9, 10].map(|k| readable.is_lost(&k)),
            [true, false, false, true, false, true]
        );
        readable.has_gaps = false;
        assert!(!readable.is_lost(&6) && !readable.holds(&6));
    }
}
