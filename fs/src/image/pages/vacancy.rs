//! What redb's allocator says: which pages of a region are free.

use crate::image::pages::Place;

/// The free pages of a region: a bitmap for each order, 0 = free at this order.
pub struct Vacancy<'b> {
    /// Pages of the region.
    pub pages: u64,
    orders: Vec<(u64, &'b [u8])>,
}

impl<'b> Vacancy<'b> {
    /// Decodes a row of the allocator's table: the largest order, the number of pages, where the
    /// bitmap of each order ends, and the bitmaps, each a tree of which the last level counts.
    pub fn decode(row: &'b [u8]) -> Option<Vacancy<'b>> {
        let orders = usize::from(*row.first()?) + 1;
        let pages = number(row, 4)?;
        let mut start = 8 + 4 * orders;
        let mut all = Vec::new();
        for order in 0..orders {
            let end = number(row, 8 + 4 * order)? as usize;
            all.push(last_level(row.get(start..end)?)?);
            start = end;
        }
        Some(Vacancy { pages, orders: all })
    }

    /// Whether page `index` of the region is in use.
    pub fn is_used(&self, index: u64) -> bool {
        let is_free = |(order, (len, bits)): (usize, &(u64, &[u8]))| {
            let at = index >> order;
            let byte = bits.get((at / 8) as usize).copied().unwrap_or(u8::MAX);
            at < *len && byte & 1 << (at % 8) == 0
        };
        index < self.pages && !self.orders.iter().enumerate().any(is_free)
    }
}

/// Number of bits, and the bits, of the last level of a bitmap.
fn last_level(bitmap: &[u8]) -> Option<(u64, &[u8])> {
    let levels = number(bitmap, 0)? as usize;
    let ends = |n: usize| number(bitmap, 4 * n).map(|end| end as usize);
    let first = levels.checked_mul(4)?.checked_add(4)?;
    let start = if levels < 2 { first } else { ends(levels - 1)? };
    let level = bitmap.get(start..ends(levels)?)?;
    Some((number(level, 0)?, level.get(4..)?))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?).into())
}

/// The pages in a list of pages that were given up and are not free yet.
pub fn page_list(value: &[u8]) -> Option<Vec<Place>> {
    let (len, pages) = value.split_first_chunk::<2>()?;
    let len = usize::from(u16::from_le_bytes(*len));
    let place = |n: usize| Some(Place::decode(*pages.get(8 * n..)?.first_chunk::<8>()?));
    (0..len).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a row says, reading it ends.
        #[test]
        fn any_bytes_can_be_read(row in prop::collection::vec(any::<u8>(), 0..300), order in 0u8..4) {
            let mut row = row;
            if let Some(first) = row.first_mut() {
                *first = order;
            }
            if let Some(vacancy) = Vacancy::decode(&row) {
                for index in 0..100 {
                    let _ = vacancy.is_used(index);
                }
            }
            let _ = page_list(&row);
        }
    }
}
