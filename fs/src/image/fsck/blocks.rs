//! Extents and bitmaps: every block has at most one owner, and is marked exactly when it has one.

use crate::image::fsck::bitmaps::{Bitmaps, Group};
use crate::image::fsck::claims::{Claims, Owner};
use crate::image::fsck::inodes;
use crate::image::fsck::model::Model;
use crate::image::fsck::report::Findings;
use crate::image::pins::Run;
use crate::image::space::GROUP_BLOCKS;
use crate::image::store::fixed_runs;
use crate::image::superblock::Chunk;
use crate::image::tables::{Attr, Extent};
use crate::volume::extents::BLOCK_MAX;
use std::collections::{BTreeMap, BTreeSet};

/// What extents are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// Blocks of the filesystem.
    pub total: u64,
    /// Pieces of the metadata area.
    pub chunks: &'a [Chunk],
}

type Key = (u64, u64);

/// Checks every extent, the block counts of inodes, and the bitmaps. Returns the blocks in use.
pub fn check(m: &mut Model, f: &mut Findings, layout: Layout<'_>) -> Claims {
    let mut claims = Claims::default();
    for run in fixed_runs(layout.chunks) {
        // Overlapping chunks were refused with the superblock.
        let _ = claims.claim(run, Owner::Fixed);
    }
    if m.incomplete {
        drop_miscounted(m, f);
        drop_unmarked(m, f, layout.total);
        drop_contested(m, f);
    }
    check_extents(m, f, layout.total, &mut claims);
    check_block_counts(m, f);
    check_groups(m, f, layout.total, &claims);
    claims
}

fn drop_extents(m: &mut Model, f: &mut Findings, bad: Vec<(Key, String)>) {
    for (key, problem) in bad {
        m.extents.remove(&key);
        let object = format!("inode {}, file block {}", key.0, key.1);
        f.error(object, problem, "the extent is dropped and reads as zeros");
    }
}

/// Where rows were lost, the others may be damaged too, and a wrong extent would show another
/// file's data. So the extents of a file must come to the blocks that its inode counts: a row that
/// strayed to another inode leaves both wrong. Only the files at the edges of a lost page lose
/// more than they had lost by this...
fn drop_miscounted(m: &mut Model, f: &mut Findings) {
    let sums = sums(m);
    let miscounted = |ino: &u64| {
        let attr = m.inodes.get(ino);
        attr.is_some_and(|a| a.is_file() && sums.get(ino).is_some_and(|sum| *sum != a.blocks))
    };
    let problem = "the file's extents do not come to its block count, and rows are damaged";
    let bad = m.extents.keys().filter(|(ino, _)| miscounted(ino));
    let bad = bad.map(|key| (*key, problem.to_owned())).collect();
    drop_extents(m, f, bad);
}

/// Blocks in all extents of each inode that has any.
fn sums(m: &Model) -> BTreeMap<u64, u64> {
    let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
    for ((ino, _), extent) in &m.extents {
        let sum = sums.entry(*ino).or_default();
        *sum = sum.saturating_add(extent.blocks);
    }
    sums
}

/// ... an extent must be confirmed by the bitmap...
fn drop_unmarked(m: &mut Model, f: &mut Findings, total: u64) {
    let marked = |block: u64| m.bitmaps.is_used(block, total);
    let inside = |e: &Extent| e.start.checked_add(e.blocks).is_some_and(|end| end <= total);
    let bad = m
        .extents
        .iter()
        .filter(|(_, e)| inside(e) && (e.start..e.end()).any(|block| !marked(block)))
        .map(|(key, e)| (*key, format!("blocks at {} are marked free", e.start)))
        .collect();
    drop_extents(m, f, bad);
}

/// ... and where two files claim a block, neither can be believed.
fn drop_contested(m: &mut Model, f: &mut Findings) {
    let mut runs: Vec<(u64, u64, Key)> =
        m.extents.iter().map(|(k, e)| (e.start, e.start.saturating_add(e.blocks), *k)).collect();
    runs.sort_unstable();
    let (mut contested, mut widest): (BTreeSet<Key>, Option<(u64, Key)>) = Default::default();
    for (start, end, key) in runs {
        if let Some((other_end, other)) = widest
            && start < other_end
        {
            contested.extend([key, other]);
        }
        if widest.is_none_or(|(other_end, _)| end > other_end) {
            widest = Some((end, key));
        }
    }
    let problem = "its blocks are claimed twice, and rows of the table are damaged";
    drop_extents(m, f, contested.into_iter().map(|key| (key, problem.to_owned())).collect());
}

fn check_extents(m: &mut Model, f: &mut Findings, total: u64, claims: &mut Claims) {
    let mut bad = Vec::new();
    let mut last: Option<(u64, u64)> = None;
    for ((ino, logical), extent) in &m.extents {
        let free_from = last.filter(|(i, _)| i == ino).map_or(0, |(_, end)| end);
        match judge(m, (*ino, *logical), extent, free_from, total, claims) {
            Some(problem) => bad.push(((*ino, *logical), problem)),
            None => last = Some((*ino, logical + extent.blocks)),
        }
    }
    drop_extents(m, f, bad);
}

fn judge(
    m: &Model,
    (ino, logical): Key,
    extent: &Extent,
    free_from: u64,
    total: u64,
    claims: &mut Claims,
) -> Option<String> {
    match m.inodes.get(&ino) {
        None => return Some("the inode does not exist".into()),
        Some(attr) if !attr.is_file() => return Some("the inode is no regular file".into()),
        Some(_) => {}
    }
    let (start, blocks) = (extent.start, extent.blocks);
    if blocks == 0 || logical >= BLOCK_MAX || blocks > BLOCK_MAX - logical {
        return Some(format!("a length of {blocks} blocks is impossible"));
    }
    if start == 0 || start.checked_add(blocks).is_none_or(|end| end > total) {
        return Some(format!("blocks {start}+{blocks} are outside the image"));
    }
    if logical < free_from {
        return Some("it overlaps the extent before".into());
    }
    let owner = claims.claim(Run { start, blocks }, Owner::Inode(ino)).err()?;
    Some(format!("blocks {start}+{blocks} belong to {owner} already"))
}

fn check_block_counts(m: &mut Model, f: &mut Findings) {
    let sums = sums(m);
    for (ino, attr) in &mut m.inodes {
        let sum = sums.get(ino).copied().unwrap_or(0);
        let Attr { blocks, .. } = attr;
        if *blocks != sum {
            let problem = format!("counts {blocks} blocks, has {sum}");
            f.error(inodes::object(*ino), problem, "the number is set");
            *blocks = sum;
        }
    }
}

fn check_groups(m: &mut Model, f: &mut Findings, total: u64, claims: &Claims) {
    let want = Bitmaps::of(claims, total);
    let beyond = m.bitmaps.groups.keys().filter(|group| **group >= total.div_ceil(GROUP_BLOCKS));
    for group in beyond {
        f.error(format!("group {group}"), "lies beyond the end of the image", "the row is dropped");
    }
    let mut differences = Differences::default();
    for group in &m.bitmaps.touched(total) | &want.touched(total) {
        match (m.bitmaps.group(group, total), want.group(group, total)) {
            (Group::Missing, _) => {
                let problem = "has no bitmap, and is neither all free nor all used";
                f.error(format!("group {group}"), problem, "it is made anew");
            }
            (Group::Bits(have), Group::Bits(want)) if have != want => {
                differences.add(group * GROUP_BLOCKS, &have, &want, claims);
            }
            _ => {}
        }
        let kept = m.bitmaps.groups.get(&group);
        if let (Some(have), Group::Bits(counted)) = (kept, m.bitmaps.group(group, total))
            && *have != counted
        {
            let problem = "has a bitmap that its number of free blocks denies";
            f.error(format!("group {group}"), problem, "both are made anew");
        }
    }
    differences.report(f);
    m.bitmaps = want;
}

/// Blocks whose bit is wrong: how many, and the first.
#[derive(Default)]
struct Differences {
    leaked: (u64, u64),
    unmarked: (u64, u64),
}

impl Differences {
    fn add(&mut self, base: u64, have: &[u8], want: &[u8], claims: &Claims) {
        for (i, (have, want)) in have.iter().zip(want).enumerate() {
            for bit in (0..8).filter(|bit| (have ^ want) & (1 << bit) != 0) {
                let block = base + 8 * i as u64 + bit;
                let class = match want & (1 << bit) {
                    0 => &mut self.leaked,
                    // The superblock says so too, and does when a commit made the area grow.
                    _ if claims.is_fixed(block) => continue,
                    _ => &mut self.unmarked,
                };
                if class.0 == 0 {
                    class.1 = block;
                }
                class.0 += 1;
            }
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
