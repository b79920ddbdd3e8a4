//! The tables of a database that cannot be opened, or not without losing what is in it.
//!
//! From the newest commit that can be found, whole pages lead to whole pages. What a damaged page
//! led to is found by the allocator's own notes: a leaf that the commit has in use and that nothing
//! leads to belongs where its keys say.

use crate::disk::Disk;
use crate::errno::{Error, Result};
use crate::fsck::commit::{self, Definitions, Live};
use crate::fsck::inodes;
use crate::fsck::leaves::Leaves;
use crate::fsck::report::Findings;
use crate::fsck::rows::{
    Counters, Extents, Free, Groups, Inodes, Names, Orphans, Row, Targets, Xattrs,
};
use crate::fsck::walk::{Met, Walk};
use crate::image::metastore::MetaStore;
use crate::image::pages::node::Leaf;
use crate::image::pages::{Place, REGION_PAGES};
use crate::image::space::{COUNTS_GROUPS, GROUP_BLOCKS};
use crate::image::superblock::Superblock;
use crate::image::tables::{
    Attr, Extent, INODES_FROZEN, INODES_USED, NEXT_INODE, name_hash, split_name_key,
};
use redb::{TableHandle as _, Value as _};
use std::sync::Arc;

/// Bytes of the bits of a group.
const ROW_BYTES: usize = (GROUP_BLOCKS / 8) as usize;
/// Most blocks of one page: a value of 64 KiB, its key, and the next power of two.
const PAGE_BLOCKS_MAX: u64 = 32;

/// What can be found of every table.
pub struct Salvage {
    /// Table `inodes`.
    pub inodes: Leaves<Inodes>,
    /// Table `names`.
    pub names: Leaves<Names>,
    /// Table `extents`.
    pub extents: Leaves<Extents>,
    /// Table `targets`.
    pub targets: Leaves<Targets>,
    /// Table `xattrs`.
    pub xattrs: Leaves<Xattrs>,
    /// Table `orphans`.
    pub orphans: Leaves<Orphans>,
    /// Table `groups`.
    pub groups: Leaves<Groups>,
    /// Table `free`.
    pub free: Leaves<Free>,
    /// Table `counters`.
    pub counters: Leaves<Counters>,
}

impl Salvage {
    /// Looks for the tables of the database that `superblock` describes.
    ///
    /// # Errors
    /// When no commit can be found, and those of the disk.
    pub fn collect(
        disk: &Arc<dyn Disk>,
        superblock: &Superblock,
        f: &mut Findings,
    ) -> Result<Salvage> {
        let meta = Arc::new(MetaStore::salvage(disk.clone(), superblock.clone()));
        let Some((slot, is_older)) = commit::newest(&meta)? else {
            return Err(Error::Damaged("no commit can be found in it".into()));
        };
        if is_older {
            f.error("database", "its newest commit is lost", "the one before it counts");
        }
        let mut walk = Walk::new(&meta);
        let live = Live::read(&mut walk, &slot)?;
        let user = Definitions::read(&mut walk, slot.user)?;
        let mut s = Salvage {
            inodes: table(&meta, &mut walk, &user)?,
            names: table(&meta, &mut walk, &user)?,
            extents: table(&meta, &mut walk, &user)?,
            targets: table(&meta, &mut walk, &user)?,
            xattrs: table(&meta, &mut walk, &user)?,
            orphans: table(&meta, &mut walk, &user)?,
            groups: table(&meta, &mut walk, &user)?,
            free: table(&meta, &mut walk, &user)?,
            counters: table(&meta, &mut walk, &user)?,
        };
        if let Some(live) = live.filter(|_| s.has_gaps()) {
            s.adopt(&meta, &live, &walk)?;
        }
        for block in walk.damaged.iter().map(|place| place.block) {
            let remedy = "what is in it is lost, and the database is written anew";
            f.error(format!("metadata block {block}"), "does not have its checksum", remedy);
        }
        Ok(s)
    }

    fn has_gaps(&self) -> bool {
        self.inodes.has_gaps()
            || self.names.has_gaps()
            || self.extents.has_gaps()
            || self.targets.has_gaps()
            || self.xattrs.has_gaps()
            || self.groups.has_gaps()
            || self.free.has_gaps()
            || self.counters.has_gaps()
    }

    /// Files the leaves that are in use and that nothing leads to. The list of orphans is made anew
    /// from the names.
    fn adopt(&mut self, meta: &MetaStore, live: &Live, walk: &Walk<'_>) -> Result<()> {
        let superblock = meta.superblock();
        let (mut next, mut unknown) = (0, Vec::new());
        for block in live.blocks(meta) {
            if block < next || walk.reached.contains(block) {
                continue;
            }
            let first = meta.page(Place { block, blocks: 1 })?;
            let Some(first) = first.filter(|page| page.is_whole) else {
                // It may be the beginning of a large page, of which the rest may look like anything.
                next = block + blocks_from(block);
                continue;
            };
            match self.adopt_at(meta, block, &first.bytes, &superblock)? {
                Some(place) => next = place.block + place.blocks,
                None => unknown.push((block, first.bytes)),
            }
        }
        self.counters.settle()?;
        self.names.settle()?;
        self.xattrs.settle()?;
        self.groups.settle()?;
        self.free.settle()?;
        self.inodes.settle()?;
        self.targets.settle()?;
        // Its rows are plain numbers: whether they are extents is told by those of the inodes.
        let last = self.inodes.last()?.unwrap_or(0);
        let is_extent = |(ino, _): &(u64, u64), extent: &Extent| {
            let end = extent.start.checked_add(extent.blocks);
            let is_inside = end.is_some_and(|end| end <= superblock.total_blocks);
            (1..=last).contains(ino) && extent.start > 0 && extent.blocks > 0 && is_inside
        };
        for (block, bytes) in unknown {
            self.extents.adopt(Place { block, blocks: 1 }, &bytes, is_extent);
        }
        self.extents.settle()
    }

    /// Offers a page to the tables whose rows can be told from those of others.
    fn adopt_at(
        &mut self,
        meta: &MetaStore,
        block: u64,
        first: &[u8],
        superblock: &Superblock,
    ) -> Result<Option<Place>> {
        let is_counter =
            |key: &String, _: &u64| [NEXT_INODE, INODES_USED, INODES_FROZEN].contains(&&**key);
        if self.counters.adopt(Place { block, blocks: 1 }, first, is_counter) {
            return Ok(Some(Place { block, blocks: 1 }));
        }
        let is_name = |key: &Vec<u8>, _: &(u64, u8)| {
            let parts = split_name_key(key);
            parts.is_some_and(|(_, hash, name)| name_hash(&superblock.hash_key, name) == hash)
        };
        if self.names.adopt(Place { block, blocks: 1 }, first, is_name) {
            return Ok(Some(Place { block, blocks: 1 }));
        }
        if let Some((place, page)) = large::<Xattrs>(meta, block, first)?
            && self.xattrs.adopt(place, &page, |(_, name), _| is_attribute(name))
        {
            return Ok(Some(place));
        }
        if self.inodes.adopt(Place { block, blocks: 1 }, first, |_, attr| is_inode(attr)) {
            return Ok(Some(Place { block, blocks: 1 }));
        }
        let is_target = |_: &u64, target: &Vec<u8>| is_target(target);
        let groups = superblock.total_blocks.div_ceil(GROUP_BLOCKS);
        let is_count = |index: &u64, row: &Vec<u8>| is_count_of(groups, *index, row);
        if self.free.adopt(Place { block, blocks: 1 }, first, is_count) {
            return Ok(Some(Place { block, blocks: 1 }));
        }
        let is_bits = |group: &u64, row: &Vec<u8>| *group < groups && row.len() == ROW_BYTES;
        if self.groups.adopt(Place { block, blocks: 1 }, first, is_bits) {
            return Ok(Some(Place { block, blocks: 1 }));
        }
        if let Some((place, page)) = large::<Targets>(meta, block, first)?
            && self.targets.adopt(place, &page, is_target)
        {
            return Ok(Some(place));
        }
        Ok(None)
    }
}

/// The leaves of a table that pages lead to.
fn table<R: Row>(
    meta: &Arc<MetaStore>,
    walk: &mut Walk<'_>,
    user: &Definitions,
) -> Result<Leaves<R>> {
    let mut leaves = Leaves::new(meta.clone());
    let widths = (R::DiskKey::fixed_width(), R::DiskValue::fixed_width());
    let found = user.tables.get(R::TABLE.name().as_bytes());
    match found.filter(|table| (table.key, table.value) == widths) {
        Some(table) => {
            if let Some(root) = table.root {
                walk.tree(root, widths, &mut |met| leaves.take(met))?;
            }
        }
        None => leaves.take(Met::Lost),
    }
    leaves.settle()?;
    Ok(leaves)
}

/// The whole page of which `first` is the first block, as its rows say.
fn large<R: Row>(meta: &MetaStore, block: u64, first: &[u8]) -> Result<Option<(Place, Vec<u8>)>> {
    let leaf = Leaf::new(first, R::DiskKey::fixed_width(), R::DiskValue::fixed_width());
    let Some(end) = leaf.and_then(|leaf| leaf.end()) else { return Ok(None) };
    let blocks = (end.div_ceil(first.len()) as u64).next_power_of_two();
    if blocks > blocks_from(block) {
        return Ok(None);
    }
    let place = Place { block, blocks };
    let page = meta.page(place)?.filter(|page| page.is_whole);
    Ok(page.map(|page| (place, page.bytes)))
}

/// Most blocks that a page may have which begins at a block.
fn blocks_from(block: u64) -> u64 {
    let index = block.saturating_sub(1) % REGION_PAGES;
    1 << index.trailing_zeros().min(PAGE_BLOCKS_MAX.ilog2())
}

/// Whether a key can be the name of an attribute: only such are ever stored.
fn is_attribute(name: &[u8]) -> bool {
    let classes: [&[u8]; 4] = [b"user.", b"system.", b"security.", b"trusted."];
    classes.iter().any(|class| name.starts_with(class))
}

/// Whether a row can be an inode. A target of a symlink cannot look like one: it has no zeros.
fn is_inode(attr: &Attr) -> bool {
    let is_known = inodes::KINDS.contains(&attr.kind());
    let times = [attr.atime, attr.mtime, attr.ctime, attr.btime];
    is_known
        && attr.mode >> 16 == 0
        && attr.is_dir() == (attr.parent != 0)
        && times.iter().all(|time| time.nanos < 1_000_000_000)
}

/// Whether a row can be the numbers of free blocks of groups: none has more than a group has.
fn is_count_of(groups: u64, index: u64, row: &[u8]) -> bool {
    let counts = row.chunks_exact(2).map(|n| u64::from(u16::from_le_bytes([n[0], n[1]])));
    let first = index.saturating_mul(COUNTS_GROUPS);
    let fits = |(n, count): (u64, u64)| count <= if first + n < groups { GROUP_BLOCKS } else { 0 };
    first < groups && row.len() == 2 * COUNTS_GROUPS as usize && (0..).zip(counts).all(fits)
}

/// Whether a value can be the target of a symlink and not a row of bitmaps.
fn is_target(target: &[u8]) -> bool {
    (1..4096).contains(&target.len()) && target.len() != ROW_BYTES && !target.contains(&0)
}
