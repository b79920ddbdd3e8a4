//! Trees of the database, from a root down, without the database.
//!
//! A page counts when it has the checksum that the page above it says. The tree is copy-on-write, so
//! what a whole page of the newest commit leads to is of that commit.

use crate::errno::Result;
use crate::image::metastore::MetaStore;
use crate::image::pages::node::{Branch, Leaf, Width};
use crate::image::pages::{Link, Place};
use std::collections::HashMap;

/// Most levels of a tree; redb's have at least two children a page.
const LEVELS_MAX: usize = 64;

/// The key at or below everything in a page, exclusive, and the key at or above; both as stored.
pub type Bounds = (Option<Vec<u8>>, Option<Vec<u8>>);

/// What is met on a walk, in the order of the rows.
pub enum Met<'p> {
    /// A leaf that has its checksum.
    Whole(Place, Leaf<'p>),
    /// Something that looks like a leaf and does not have its checksum.
    Damaged(Leaf<'p>, Bounds),
    /// Some rows cannot be reached any more.
    Lost,
}

/// Blocks of the database, as bits.
#[derive(Debug, Default)]
pub struct Blocks(HashMap<u64, u64>);

impl Blocks {
    /// Adds the blocks of a page; `false` when some of them were there.
    pub fn insert(&mut self, place: Place) -> bool {
        let mut are_new = true;
        for block in place.block..place.block + place.blocks {
            let (word, bit) = (self.0.entry(block / 64).or_default(), 1 << (block % 64));
            are_new &= *word & bit == 0;
            *word |= bit;
        }
        are_new
    }

    /// True when a block was added.
    pub fn contains(&self, block: u64) -> bool {
        self.0.get(&(block / 64)).is_some_and(|word| word & 1 << (block % 64) != 0)
    }
}

/// Walks over the trees of one commit.
pub struct Walk<'m> {
    meta: &'m MetaStore,
    /// What pages were met, whole or not.
    pub reached: Blocks,
    /// Pages that are damaged.
    pub damaged: Vec<Place>,
    /// The walk ends at a level that was chosen, not at one that cannot be.
    cut: bool,
}

impl<'m> Walk<'m> {
    /// Nothing was met yet.
    pub fn new(meta: &'m MetaStore) -> Walk<'m> {
        Walk { meta, reached: Blocks::default(), damaged: Vec::new(), cut: false }
    }

    /// Walks the tree below `root`.
    ///
    /// # Errors
    /// Those of the disk that are not about single blocks.
    pub fn tree(
        &mut self,
        root: Link,
        widths: (Width, Width),
        meet: &mut dyn FnMut(Met<'_>),
    ) -> Result<()> {
        self.tree_upto(root, widths, LEVELS_MAX, meet)
    }

    /// As [`Walk::tree`], down to `levels` levels: what is below is not looked at.
    ///
    /// # Errors
    /// As for [`Walk::tree`].
    pub fn tree_upto(
        &mut self,
        root: Link,
        widths: (Width, Width),
        levels: usize,
        meet: &mut dyn FnMut(Met<'_>),
    ) -> Result<()> {
        self.cut = levels < LEVELS_MAX;
        self.page(root, widths, (None, None), levels.min(LEVELS_MAX), meet)
    }

    fn page(
        &mut self,
        link: Link,
        (key, value): (Width, Width),
        bounds: Bounds,
        levels: usize,
        meet: &mut dyn FnMut(Met<'_>),
    ) -> Result<()> {
        if levels == 0 && self.cut {
            return Ok(());
        }
        let page = self.meta.page(link.place)?;
        let Some(page) = page.filter(|_| levels > 0) else {
            meet(Met::Lost);
            return Ok(());
        };
        // A page has one parent.
        if !self.reached.insert(link.place) {
            meet(Met::Lost);
            return Ok(());
        }
        if let Some(leaf) = Leaf::new(&page.bytes, key, value) {
            if leaf.checksum() == Some(link.checksum) {
                meet(Met::Whole(link.place, leaf));
            } else {
                self.damaged.push(link.place);
                meet(Met::Damaged(leaf, bounds));
            }
            return Ok(());
        }
        let branch = Branch::new(&page.bytes, key);
        let Some(branch) = branch.filter(|b| b.checksum() == Some(link.checksum)) else {
            self.damaged.push(link.place);
            meet(Met::Lost);
            return Ok(());
        };
        let (mut low, high) = bounds;
        for (n, child) in branch.children().enumerate() {
            let separator = branch.separator(n).map(<[u8]>::to_vec);
            let own = (low.clone(), separator.clone().or_else(|| high.clone()));
            match child {
                Some(child) => self.page(child, (key, value), own, levels - 1, meet)?,
                None => meet(Met::Lost),
            }
            low = separator;
        }
        Ok(())
    }
}
