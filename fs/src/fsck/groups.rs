//! The bitmaps as rows: bits of each group that is neither all free nor all used, and the numbers
//! of free blocks of all that are not all free. A block is marked exactly when it has an owner.

use crate::errno::Result;
use crate::fsck::claims::Claims;
use crate::fsck::model::Model;
use crate::fsck::report::Findings;
use crate::fsck::rows::Groups;
use crate::fsck::table::Original;
use crate::image::pins::Run;
use crate::image::space::bits::Bits;
use crate::image::space::{COUNTS_GROUPS, GROUP_BLOCKS};
use crate::image::store::fixed_runs;
use crate::image::superblock::{Chunk, Superblock};
use crate::image::tables::Extent;
use std::collections::BTreeMap;

/// Bytes of the bits of a group.
const ROW_BYTES: usize = (GROUP_BLOCKS / 8) as usize;

/// What extents and bitmaps are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// Blocks of the filesystem.
    pub total: u64,
    /// Pieces of the metadata area.
    pub chunks: &'a [Chunk],
}

impl<'a> Layout<'a> {
    /// As a superblock says.
    pub fn new(superblock: &'a Superblock) -> Layout<'a> {
        Layout { total: superblock.total_blocks, chunks: &superblock.chunks }
    }

    /// The blocks of superblocks and of the metadata area.
    pub fn fixed(&self) -> Claims {
        let mut fixed = Claims::new(self.total);
        fixed_runs(self.chunks).for_each(|run| fixed.add(run));
        fixed
    }

    /// True when an extent has blocks, all of them inside the image.
    pub fn holds(&self, extent: &Extent) -> bool {
        let end = extent.start.checked_add(extent.blocks);
        extent.start > 0 && extent.blocks > 0 && end.is_some_and(|end| end <= self.total)
    }

    /// All blocks of a group.
    pub fn whole(&self, group: u64) -> Run {
        let start = group * GROUP_BLOCKS;
        Run { start, blocks: GROUP_BLOCKS.min(self.total - start) }
    }
}

/// What the rows say of a group.
#[derive(PartialEq, Eq)]
pub enum Group {
    /// Its bits; those past the end of the filesystem are set.
    Bits(Box<Bits>),
    /// It should have bits, and has none of the right length; or nobody can say.
    Missing,
    /// It has bits that its number of free blocks denies.
    Contradictory(Box<Bits>),
}

/// The rows as they are, read group by group in rising order.
pub struct Recorded<'m> {
    model: &'m Model,
    total: u64,
    free: BTreeMap<u64, Vec<u8>>,
    rows: Original<'m, Groups>,
    held: Option<(u64, Option<Vec<u8>>)>,
}

impl<'m> Recorded<'m> {
    /// The rows of `model`, without its corrections.
    ///
    /// # Errors
    /// Those of the database.
    pub fn new(model: &'m Model, total: u64) -> Result<Recorded<'m>> {
        let last = total.div_ceil(GROUP_BLOCKS).div_ceil(COUNTS_GROUPS);
        let (mut free, mut rows) = (BTreeMap::new(), model.free.original());
        while let Some((index, row)) = rows.next()?.filter(|(index, _)| *index < last) {
            free.extend(row.map(|row| (index, row)));
        }
        Ok(Recorded { model, total, free, rows: model.groups.original(), held: None })
    }

    /// What the rows say of a group; groups are asked for in rising order.
    ///
    /// # Errors
    /// Those of the database.
    pub fn group(&mut self, group: u64) -> Result<Group> {
        let row = self.row(group)?;
        let len = GROUP_BLOCKS.min(self.total - group * GROUP_BLOCKS);
        let index = group / COUNTS_GROUPS;
        let free = match self.count(group) {
            None if self.model.free.is_lost(&index)? => return Ok(Group::Missing),
            free => free.unwrap_or(len),
        };
        let is_even = free == 0 || free == len;
        let bits = match row {
            None if is_even => Bits::filled(free == 0, len),
            Some(row) if row.len() == ROW_BYTES => Bits::decode(&row, len),
            _ => return Ok(Group::Missing),
        };
        let agrees = bits.free() == free;
        let bits = Box::new(bits);
        Ok(if agrees { Group::Bits(bits) } else { Group::Contradictory(bits) })
    }

    /// The bits of a group as they are stored, which are not looked at otherwise.
    fn row(&mut self, group: u64) -> Result<Option<Vec<u8>>> {
        loop {
            if self.held.is_none() {
                self.held = self.rows.next()?;
            }
            match &mut self.held {
                Some((at, _)) if *at < group => self.held = None,
                Some((at, row)) if *at == group => return Ok(row.take()),
                _ => return Ok(None),
            }
        }
    }

    fn count(&self, group: u64) -> Option<u64> {
        let row = self.free.get(&(group / COUNTS_GROUPS))?;
        let at = (group % COUNTS_GROUPS) as usize * 2;
        Some(u64::from(u16::from_le_bytes([*row.get(at)?, *row.get(at + 1)?])))
    }
}

/// Compares the bitmaps with what has an owner.
///
/// # Errors
/// Those of the database.
pub fn check(m: &Model, f: &mut Findings, layout: Layout<'_>, claims: &Claims) -> Result<()> {
    let fixed = layout.fixed();
    let mut differences = Differences::default();
    let mut recorded = Recorded::new(m, layout.total)?;
    for group in 0..claims.groups() {
        let object = || format!("group {group}");
        match recorded.group(group)? {
            Group::Missing => {
                let problem = "has no bitmap, and is neither all free nor all used";
                f.error(object(), problem, "it is made anew");
            }
            Group::Contradictory(have) => {
                let problem = "has a bitmap that its number of free blocks denies";
                f.error(object(), problem, "both are made anew");
                differences.add(group, &have, &claims.bits(group), &fixed);
            }
            Group::Bits(have) => differences.add(group, &have, &claims.bits(group), &fixed),
        }
    }
    let mut beyond = m.groups.rows_from(Some(claims.groups()));
    while let Some((group, _)) = beyond.next()? {
        f.error(format!("group {group}"), "lies beyond the end of the image", "the row is dropped");
    }
    let mut beyond = m.free.rows_from(Some(claims.groups().div_ceil(COUNTS_GROUPS)));
    while let Some((index, _)) = beyond.next()? {
        let problem = "count groups that lie beyond the end of the image";
        f.error(format!("numbers of free blocks, row {index}"), problem, "the row is dropped");
    }
    differences.report(f);
    Ok(())
}

/// Makes the rows say what has an owner.
///
/// # Errors
/// Those of the database.
pub fn correct(m: &mut Model, claims: &Claims) -> Result<()> {
    let mut fixes = Vec::new();
    let mut rows = m.groups.original();
    let mut held = rows.next()?;
    for group in 0..claims.groups() {
        let free = claims.free(group);
        let is_even = free == 0 || free == claims.len(group);
        let want = (!is_even).then(|| claims.bits(group).encode());
        let have = match &mut held {
            Some((at, row)) if *at == group => row.take(),
            _ => None,
        };
        if have.is_some() {
            held = rows.next()?;
        }
        if have != want {
            fixes.push((group, want));
        }
    }
    while let Some((group, _)) = held {
        fixes.push((group, None));
        held = rows.next()?;
    }
    m.groups.correct(fixes);
    correct_counts(m, claims)
}

fn correct_counts(m: &mut Model, claims: &Claims) -> Result<()> {
    let mut fixes: BTreeMap<u64, Option<Vec<u8>>> = BTreeMap::new();
    let mut rows = m.free.original();
    while let Some((index, _)) = rows.next()? {
        fixes.insert(index, None);
    }
    for index in 0..claims.groups().div_ceil(COUNTS_GROUPS) {
        let groups = index * COUNTS_GROUPS..((index + 1) * COUNTS_GROUPS).min(claims.groups());
        if groups.clone().any(|group| claims.free(group) != claims.len(group)) {
            let counts = groups.flat_map(|group| (claims.free(group) as u16).to_le_bytes());
            fixes.insert(index, Some(counts.collect()));
        }
    }
    for (index, row) in fixes {
        if m.free.get(&index)? != row {
            m.free.correct([(index, row)]);
        }
    }
    Ok(())
}

/// Blocks whose bit is wrong: how many, and the first.
#[derive(Default)]
struct Differences {
    leaked: (u64, u64),
    unmarked: (u64, u64),
}

impl Differences {
    fn add(&mut self, group: u64, have: &Bits, want: &Bits, fixed: &Claims) {
        if have == want {
            return;
        }
        for at in (0..GROUP_BLOCKS).filter(|at| have.get(*at) != want.get(*at)) {
            let block = group * GROUP_BLOCKS + at;
            let class = match want.get(at) {
                false => &mut self.leaked,
                // The superblock says so too, and does when a commit made the area grow.
                true if fixed.touches(Run { start: block, blocks: 1 }) => continue,
                true => &mut self.unmarked,
            };
            if class.0 == 0 {
                class.1 = block;
            }
            class.0 += 1;
        }
    }

    fn report(&self, f: &mut Findings) {
        let text = |(n, first): (u64, u64), what| format!("{n} blocks from {first} on {what}");
        let remedy = "the bitmap is made anew";
        if self.leaked.0 > 0 {
            f.error("bitmap", text(self.leaked, "are marked used and belong to nothing"), remedy);
        }
        if self.unmarked.0 > 0 {
            f.error("bitmap", text(self.unmarked, "are in files and marked free"), remedy);
        }
    }
}
