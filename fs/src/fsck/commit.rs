//! Which commit a damaged database is at, and what that commit says of its pages.

use crate::errno::Result;
use crate::fsck::walk::{Blocks, Met, Walk};
use crate::image::metastore::MetaStore;
use crate::image::pages::node::{Definition, Leaf, PAGE_BLOCKS_MAX};
use crate::image::pages::vacancy::{Vacancy, page_list};
use crate::image::pages::{self, Link, Place, REGION_PAGES, Slot};
use crate::image::tables::{Attr, COUNTERS, EXTENTS, INODES, InodeRow, NAMES, NEXT_INODE};
use redb::TableHandle as _;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// When nothing says which commit is the newest: levels that all candidates are compared by, and how many of them go on
/// to the next comparison.
const ROUNDS: [(usize, usize); 3] = [(1, 1024), (2, 32), (usize::MAX, 1)];

/// Key and value of a row, as stored.
type Line = (Vec<u8>, Vec<u8>);

/// The tables of a tree of tables.
#[derive(Debug, Default)]
pub struct Definitions {
    /// By name.
    pub tables: HashMap<Vec<u8>, Definition>,
    /// There may have been others.
    pub has_gaps: bool,
}

impl Definitions {
    /// Walks the tree of tables below `root`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn read(walk: &mut Walk<'_>, root: Option<Link>) -> Result<Definitions> {
        let mut found = Definitions::default();
        let Some(root) = root else { return Ok(found) };
        walk.tree(root, (None, None), &mut |met| match met {
            Met::Whole(_, leaf) => found.add(&leaf),
            Met::Damaged(..) | Met::Lost => found.has_gaps = true,
        })?;
        Ok(found)
    }

    fn add(&mut self, leaf: &Leaf<'_>) {
        for n in 0..leaf.len() {
            match leaf.row(n).and_then(|(name, row)| Some((name, Definition::decode(row)?))) {
                Some((name, table)) => drop(self.tables.insert(name.to_vec(), table)),
                None => self.has_gaps = true,
            }
        }
    }

    /// All rows of a small table; `None` when some cannot be read.
    fn rows(&self, walk: &mut Walk<'_>, name: &str) -> Result<Option<Vec<Line>>> {
        let (mut rows, mut is_whole) = (Vec::new(), !self.has_gaps);
        let table = self.tables.get(name.as_bytes());
        if let Some((table, root)) = table.and_then(|t| Some((t, t.root?))) {
            walk.tree(root, (table.key, table.value), &mut |met| match met {
                Met::Whole(_, leaf) => match leaf.rows() {
                    Some(all) => {
                        rows.extend(all.into_iter().map(|(k, v)| (k.to_vec(), v.to_vec())));
                    }
                    None => is_whole = false,
                },
                Met::Damaged(..) | Met::Lost => is_whole = false,
            })?;
        }
        Ok(is_whole.then_some(rows))
    }
}

/// The pages that a commit has in use, as redb's allocator wrote them down.
#[derive(Debug)]
pub struct Live {
    /// The row of each region.
    regions: BTreeMap<u64, Vec<u8>>,
    /// Pages that only earlier commits use.
    given_up: Blocks,
}

impl Live {
    /// Reads it from the database's own tables; `None` when they are damaged, or of another commit:
    /// one of fsync(2) alone does not write them.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn read(walk: &mut Walk<'_>, slot: &Slot) -> Result<Option<Live>> {
        const REGION: u8 = 3;
        const TRANSACTION: u8 = 5;
        let system = Definitions::read(walk, slot.system)?;
        let state = system.rows(walk, "allocator_state")?;
        let unreachable = ["data_pages_unreachable", "system_pages_unreachable"];
        let [data, own] = unreachable.map(|name| system.rows(walk, name));
        let (Some(state), Some(data), Some(own)) = (state, data?, own?) else { return Ok(None) };
        let mut live = Live { regions: BTreeMap::new(), given_up: Blocks::default() };
        let mut is_current = false;
        for (key, row) in state {
            match key.split_first() {
                Some((&REGION, region)) => {
                    let Some(region) = region.first_chunk::<4>() else { return Ok(None) };
                    live.regions.insert(u32::from_le_bytes(*region).into(), row);
                }
                Some((&TRANSACTION, _)) => is_current = row == slot.transaction.to_le_bytes(),
                _ => {}
            }
        }
        for (_, pages) in data.into_iter().chain(own) {
            let Some(pages) = page_list(&pages) else { return Ok(None) };
            if pages.iter().any(|place| place.blocks > PAGE_BLOCKS_MAX) {
                return Ok(None);
            }
            for place in pages {
                live.given_up.insert(place);
            }
        }
        Ok(is_current.then_some(live))
    }

    /// Blocks in use that have a place in the image, in order: however much the notes make up, there are no more.
    pub fn blocks(&self, meta: &MetaStore) -> impl Iterator<Item = u64> + '_ {
        let mut current: Option<(u64, Option<Vacancy<'_>>)> = None;
        meta.backed().filter(move |block| {
            let Some(page) = block.checked_sub(1) else { return false };
            let region = page / REGION_PAGES;
            if current.as_ref().is_none_or(|(held, _)| *held != region) {
                let row = self.regions.get(&region);
                current = Some((region, row.and_then(|row| Vacancy::decode(row))));
            }
            let vacancy = current.as_ref().and_then(|(_, vacancy)| vacancy.as_ref());
            let is_used = vacancy.is_some_and(|vacancy| vacancy.is_used(page % REGION_PAGES));
            is_used && !self.given_up.contains(*block)
        })
    }
}

/// The newest commit of which anything can be found; `true` when a newer one was there.
///
/// # Errors
/// Those of the disk.
pub fn newest(meta: &MetaStore) -> Result<Option<(Slot, bool)>> {
    let mut slots: Vec<Slot> = recorded(meta).into_iter().collect();
    let head = meta.page(Place { block: 0, blocks: 1 })?;
    let in_header = head.map(|page| pages::slots(&page.bytes)).unwrap_or_default();
    slots.extend(in_header.iter().filter_map(Slot::decode));
    let newest = slots.first().map(|slot| slot.transaction);
    for slot in slots {
        if is_useful(meta, &slot)? {
            return Ok(Some((slot, Some(slot.transaction) != newest)));
        }
    }
    Ok(search(meta)?.map(|slot| (slot, true)))
}

/// How many blocks the newest commit has in use, where the allocator wrote that down.
///
/// # Errors
/// Those of the disk.
pub fn blocks_in_use(meta: &MetaStore) -> Result<Option<u64>> {
    let Some((slot, _)) = newest(meta)? else { return Ok(None) };
    let live = Live::read(&mut Walk::new(meta), &slot)?;
    Ok(live.map(|live| live.blocks(meta).count() as u64))
}

/// The commit at which the image was unmounted, unless it was mounted since.
fn recorded(meta: &MetaStore) -> Option<Slot> {
    Slot::decode(meta.superblock().commit.as_ref()?)
}

/// True when the first block of the database contradicts what was written down at the last unmount.
///
/// # Errors
/// Those of the disk.
pub fn is_header_damaged(meta: &MetaStore) -> Result<bool> {
    let Some(recorded) = recorded(meta) else { return Ok(false) };
    let head = meta.page(Place { block: 0, blocks: 1 })?;
    let first = head.and_then(|page| Slot::decode(pages::slots(&page.bytes).first()?));
    Ok(first.is_none_or(|first| first != recorded && first.transaction <= recorded.transaction))
}

/// True when the tree of tables can be read, or the pages in use are known.
fn is_useful(meta: &MetaStore, slot: &Slot) -> Result<bool> {
    let mut walk = Walk::new(meta);
    let tables = Definitions::read(&mut walk, slot.user)?;
    Ok(!tables.has_gaps && !tables.tables.is_empty() || Live::read(&mut walk, slot)?.is_some())
}

/// Looks at every page for one that can be the root of a commit, and takes the newest of those
/// under which least is missing.
fn search(meta: &MetaStore) -> Result<Option<Slot>> {
    let mut roots = Vec::new();
    for block in meta.backed().filter(|block| *block > 0) {
        let place = Place { block, blocks: 1 };
        let Some(page) = meta.page(place)?.filter(|page| page.is_whole) else { continue };
        let Some(leaf) = Leaf::new(&page.bytes, None, None) else { continue };
        let Some(checksum) = leaf.checksum().filter(|_| is_root(&leaf)) else { continue };
        let slot = Slot { user: Some(Link { place, checksum }), system: None, transaction: 0 };
        roots.push(slot);
    }
    for (levels, most) in ROUNDS {
        let mut ranked = Vec::new();
        for slot in roots {
            let (missing, age) = judge(meta, &slot, levels)?;
            ranked.push((missing, Reverse(age), slot));
        }
        ranked.sort_by_key(|(missing, age, _)| (*missing, *age));
        roots = ranked.into_iter().take(most).map(|(_, _, slot)| slot).collect();
    }
    Ok(roots.pop())
}

/// Whether a leaf can be all of a tree of tables.
fn is_root(leaf: &Leaf<'_>) -> bool {
    let rows = leaf.rows().unwrap_or_default();
    let has = |name: &str| {
        let mut found = rows.iter().filter(|(key, _)| *key == name.as_bytes());
        found.any(|(_, row)| Definition::decode(row).is_some())
    };
    has(INODES.name()) && has(NAMES.name()) && has(EXTENTS.name()) && has(COUNTERS.name())
}

/// How many pages are missing under a root, down to `levels` levels, and how new it looks: the next
/// number of an inode, and the latest change of one.
fn judge(meta: &MetaStore, slot: &Slot, levels: usize) -> Result<(usize, (u64, i64, u32))> {
    let mut walk = Walk::new(meta);
    let user = Definitions::read(&mut walk, slot.user)?;
    let (mut missing, mut age) = (0, (0, 0, 0));
    for (name, table) in &user.tables {
        let Some(root) = table.root else { continue };
        let of = |known: &str| name == known.as_bytes();
        let (is_inodes, is_counters) = (of(INODES.name()), of(COUNTERS.name()));
        walk.tree_upto(root, (table.key, table.value), levels, &mut |met| match met {
            Met::Whole(_, leaf) if is_inodes => {
                let rows = leaf.rows().unwrap_or_default().into_iter();
                let attrs: Vec<Attr> = rows.filter_map(|(_, row)| InodeRow::decode(row)).collect();
                let latest = attrs.iter().map(|a| (a.ctime.secs, a.ctime.nanos)).max();
                let (secs, nanos) = latest.unwrap_or_default().max((age.1, age.2));
                age = (age.0, secs, nanos);
            }
            Met::Whole(_, leaf) if is_counters => {
                let rows = leaf.rows().unwrap_or_default();
                let next = rows.iter().find(|(key, _)| *key == NEXT_INODE.as_bytes());
                let next = next.and_then(|(_, value)| value.first_chunk::<8>());
                age.0 = next.map_or(0, |bytes| u64::from_le_bytes(*bytes));
            }
            Met::Whole(..) => {}
            Met::Damaged(..) | Met::Lost => missing += 1,
        })?;
    }
    Ok((missing, age))
}
