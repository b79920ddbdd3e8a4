//! Leaves and branches of redb's trees.

use crate::image::pages::Link;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_128;

const LEAF: u8 = 1;
const BRANCH: u8 = 2;

/// Fixed sizes of keys and values; `None` where they vary.
pub type Width = Option<usize>;

/// A page that has rows.
pub struct Leaf<'p> {
    page: &'p [u8],
    rows: usize,
    key: Width,
    value: Width,
}

impl<'p> Leaf<'p> {
    /// `None` when the page is not a leaf that has rows.
    pub fn new(page: &'p [u8], key: Width, value: Width) -> Option<Leaf<'p>> {
        let rows = count(page, LEAF)?;
        Some(Leaf { page, rows, key, value })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Key and value of row `n`; `None` where they do not lie in the page.
    pub fn row(&self, n: usize) -> Option<(&'p [u8], &'p [u8])> {
        if n >= self.rows {
            return None;
        }
        let key = self.key_start(n)?..self.key_end(n)?;
        let value = self.value_start(n)?..self.value_end(n)?;
        Some((self.page.get(key)?, self.page.get(value)?))
    }

    /// All rows in order; `None` when one of them cannot be.
    pub fn rows(&self) -> Option<Vec<(&'p [u8], &'p [u8])>> {
        (0..self.rows).map(|n| self.row(n)).collect()
    }

    /// Where the last row ends, in the page or behind it.
    pub fn end(&self) -> Option<usize> {
        self.value_end(self.rows - 1)
    }

    /// XXH3 of the bytes in use.
    pub fn checksum(&self) -> Option<u128> {
        Some(xxh3_128(self.page.get(..self.end()?)?))
    }

    fn keys(&self) -> usize {
        let ends = usize::from(self.key.is_none()) + usize::from(self.value.is_none());
        4 + 4 * self.rows * ends
    }

    fn key_start(&self, n: usize) -> Option<usize> {
        n.checked_sub(1).map_or(Some(self.keys()), |n| self.key_end(n))
    }

    fn key_end(&self, n: usize) -> Option<usize> {
        match self.key {
            Some(width) => Some(self.keys() + width * (n + 1)),
            None => offset(self.page, 4 + 4 * n),
        }
    }

    fn value_start(&self, n: usize) -> Option<usize> {
        n.checked_sub(1).map_or_else(|| self.key_end(self.rows - 1), |n| self.value_end(n))
    }

    fn value_end(&self, n: usize) -> Option<usize> {
        match self.value {
            Some(width) => Some(self.key_end(self.rows - 1)? + width * (n + 1)),
            None => {
                let before = if self.key.is_none() { self.rows } else { 0 };
                offset(self.page, 4 + 4 * (before + n))
            }
        }
    }
}

/// A page that leads to others.
pub struct Branch<'p> {
    page: &'p [u8],
    keys: usize,
    key: Width,
}

impl<'p> Branch<'p> {
    /// `None` when the page is not a branch that has keys.
    pub fn new(page: &'p [u8], key: Width) -> Option<Branch<'p>> {
        let keys = count(page, BRANCH)?;
        Some(Branch { page, keys, key })
    }

    /// The pages below, in the order of their rows; `None` for one that cannot be.
    pub fn children(&self) -> impl Iterator<Item = Option<Link>> + '_ {
        let all = self.keys + 1;
        (0..all).map(move |n| {
            let sum = self.page.get(8 + 16 * n..)?.first_chunk::<16>()?;
            let number = self.page.get(8 + 16 * all + 8 * n..)?.first_chunk::<8>()?;
            Link::decode(&[&number[..], &sum[..]].concat())
        })
    }

    /// The key at or above every one below child `n`, and below every one behind it; `None` for the
    /// last child.
    pub fn separator(&self, n: usize) -> Option<&'p [u8]> {
        self.page.get(self.key_range(n)?)
    }

    /// XXH3 of the bytes in use.
    pub fn checksum(&self) -> Option<u128> {
        let end = self.key_range(self.keys - 1)?.end;
        Some(xxh3_128(self.page.get(..end)?))
    }

    fn key_range(&self, n: usize) -> Option<Range<usize>> {
        if n >= self.keys {
            return None;
        }
        let ends = 8 + 24 * (self.keys + 1);
        Some(match self.key {
            Some(width) => ends + width * n..ends + width * (n + 1),
            None => {
                let first = ends + 4 * self.keys;
                let end = |n: usize| offset(self.page, ends + 4 * n);
                n.checked_sub(1).map_or(Some(first), end)?..end(n)?
            }
        })
    }
}

/// Number of rows or keys of a page of one type.
fn count(page: &[u8], kind: u8) -> Option<usize> {
    let [is, _, low, high] = *page.first_chunk::<4>()?;
    let count = usize::from(u16::from_le_bytes([low, high]));
    (is == kind && count > 0).then_some(count)
}

fn offset(page: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(*page.get(at..)?.first_chunk::<4>()?) as usize)
}

/// What the tree of tables says of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Where it begins, when it has rows.
    pub root: Option<Link>,
    /// Size of keys.
    pub key: Width,
    /// Size of values.
    pub value: Width,
}

impl Definition {
    /// Decodes a value of the tree of tables; `None` for what is not a table.
    pub fn decode(bytes: &[u8]) -> Option<Definition> {
        const NORMAL: u8 = 3;
        let width = |at: usize| -> Option<Width> {
            let size = offset(bytes, at + 1)?;
            Some((*bytes.get(at)? != 0).then_some(size))
        };
        let root = match (*bytes.first()?, *bytes.get(9)?) {
            (NORMAL, 0) => None,
            (NORMAL, _) => Some(Link::decode(bytes.get(10..)?)?),
            _ => return None,
        };
        Some(Definition { root, key: width(42)?, value: width(47)? })
    }
}

/// Blocks of the largest page that we ever make redb write, rounded up: bitmaps of its allocator have half a MiB.
pub const PAGE_BLOCKS_MAX: u64 = 1024;

/// Whether a page leads to one of an impossible size. redb would ask for the memory first: up to 4 GiB.
pub fn leads_to_giants(page: &[u8]) -> bool {
    let is_giant = |link: Link| link.place.blocks > PAGE_BLOCKS_MAX;
    if let Some(branch) = Branch::new(page, None) {
        return branch.children().flatten().any(is_giant);
    }
    let Some(leaf) = Leaf::new(page, None, None) else { return false };
    // A value that a user chose may look like a table, but no key of such a row is the name of one.
    let roots = (0..leaf.len()).filter_map(|n| leaf.row(n)).filter(|(key, _)| is_table(key));
    roots.filter_map(|(_, row)| Definition::decode(row)?.root).any(is_giant)
}

/// Our tables and redb's own.
fn is_table(name: &[u8]) -> bool {
    const NAMES: [&str; 15] = [
        "inodes",
        "names",
        "extents",
        "targets",
        "xattrs",
        "orphans",
        "groups",
        "free",
        "counters",
        "allocator_state",
        "data_pages_allocated",
        "data_pages_unreachable",
        "system_pages_unreachable",
        "next_savepoint_id",
        "persistent_savepoints",
    ];
    NAMES.iter().any(|known| known.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a page says, reading it ends, and stays inside.
        #[test]
        fn any_bytes_can_be_read(
            mut page in prop::collection::vec(any::<u8>(), 0..600),
            kind in 0u8..4, count in 0u16..40,
            key in prop::option::of(0usize..40), value in prop::option::of(0usize..200))
        {
            if page.len() >= 4 {
                page[0] = kind;
                page[2..4].copy_from_slice(&count.to_le_bytes());
            }
            if let Some(leaf) = Leaf::new(&page, key, value) {
                for n in 0..=leaf.len() {
                    let _ = leaf.row(n);
                }
                let _ = (leaf.rows(), leaf.checksum());
            }
            if let Some(branch) = Branch::new(&page, key) {
                for (n, _) in branch.children().enumerate() {
                    let _ = branch.separator(n);
                }
                let _ = branch.checksum();
            }
            let _ = Definition::decode(&page);
        }
    }
}
