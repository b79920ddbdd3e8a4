//! A cache of pages by index: the memory of an XARRAY iterator.

use std::collections::BTreeMap;

use crate::buffer::Buffer;
use crate::iter::Span;
use crate::mapping::page_size;
use crate::pool::Pool;

/// A page that an iterator needs is not in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("page {index} is not in the cache")]
pub struct MissingPage {
    /// Page number: byte offset divided by the page size.
    pub index: u64,
}

/// Pages of one file, by page number. Each is a pool buffer of one page.
#[derive(Debug, Default)]
pub struct PageMap {
    pages: BTreeMap<u64, Buffer>,
}

impl PageMap {
    /// No pages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes every page of `len` bytes from byte `start` present; new ones are zeroed.
    pub fn populate(&mut self, pool: &Pool, start: u64, len: usize) {
        for index in pages_of(start, len) {
            self.pages.entry(index).or_insert_with(|| {
                let mut page = pool.take(page_size());
                page.fill_zero();
                page
            });
        }
    }

    /// The page, if it is there.
    pub fn get(&self, index: u64) -> Option<&Buffer> {
        self.pages.get(&index)
    }

    /// Takes a page out, as truncate does. A borrow by an iterator forbids it meanwhile.
    pub fn remove(&mut self, index: u64) -> Option<Buffer> {
        self.pages.remove(&index)
    }

    /// Pages that are there.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    pub(crate) fn spans_mut(
        &mut self,
        start: u64,
        len: usize,
    ) -> Result<Vec<Span<'_>>, MissingPage> {
        let mut wanted = pages_of(start, len);
        let mut spans = Vec::new();
        if !wanted.is_empty() {
            for (&found, page) in self.pages.range_mut(wanted.clone()) {
                let index = wanted.next().unwrap_or(found);
                expect(index, found)?;
                let (from, to) = within(index, start, len);
                spans.push((&mut page.as_mut_slice()[from..to]).into());
            }
        }
        wanted.next().map_or(Ok(spans), |index| Err(MissingPage { index }))
    }

    pub(crate) fn spans(&self, start: u64, len: usize) -> Result<Vec<Span<'_>>, MissingPage> {
        pages_of(start, len)
            .map(|index| {
                let page = self.pages.get(&index).ok_or(MissingPage { index })?;
                let (from, to) = within(index, start, len);
                Ok((&page.as_slice()[from..to]).into())
            })
            .collect()
    }
}

fn expect(index: u64, found: u64) -> Result<(), MissingPage> {
    if index == found { Ok(()) } else { Err(MissingPage { index }) }
}

/// Numbers of the pages that `len` bytes from byte `start` touch.
fn pages_of(start: u64, len: usize) -> std::ops::Range<u64> {
    let page = page_size() as u64;
    start / page..if len == 0 { start / page } else { (start + len as u64 - 1) / page + 1 }
}

/// The part of page `index` that lies in `len` bytes from byte `start`.
fn within(index: u64, start: u64, len: usize) -> (usize, usize) {
    let page = page_size() as u64;
    let first = index * page;
    let from = start.saturating_sub(first);
    let to = (start + len as u64 - first).min(page);
    (from as usize, to as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iter::IoIter;

    #[test]
    fn an_iterator_over_the_cache_starts_and_ends_inside_pages() {
        let page = page_size();
        let pool = Pool::new(crate::PoolConfig { slabs: 1, ..Default::default() }).unwrap();
        let mut map = PageMap::new();
        map.populate(&pool, 5 * page as u64, 3 * page);
        let start = 5 * page as u64 + 10;
        let text: Vec<u8> = (0..2 * page).map(|i| i as u8).collect();
        let mut iter = IoIter::xarray(&mut map, start, 2 * page).unwrap();
        assert_eq!(iter.copy_from(&text).unwrap(), 2 * page);
        let mut back = vec![0; 2 * page];
        IoIter::xarray_source(&map, start, 2 * page).unwrap().copy_to(&mut back);
        assert_eq!(back, text);
        assert_eq!(map.get(7).unwrap().as_slice()[..10], text[2 * page - 10..]);
        assert_eq!(map.get(5).unwrap().as_slice()[..10], [0; 10]);
    }

    #[test]
    fn a_missing_page_is_named() {
        let page = page_size();
        let pool = Pool::new(crate::PoolConfig { slabs: 1, ..Default::default() }).unwrap();
        let mut map = PageMap::new();
        map.populate(&pool, 0, 4 * page);
        map.remove(2);
        let missing = |r: Result<IoIter<'_>, MissingPage>| r.map(|_| ()).unwrap_err().index;
        assert_eq!(missing(IoIter::xarray_source(&map, 0, 4 * page)), 2);
        assert_eq!(missing(IoIter::xarray(&mut map, 0, 4 * page)), 2);
        assert_eq!(missing(IoIter::xarray(&mut map, 3 * page as u64, 2 * page)), 4);
        assert_eq!(IoIter::xarray(&mut map, 9 * page as u64, 0).unwrap().remaining(), 0);
    }
}
