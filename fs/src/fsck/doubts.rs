//! Extents of a database in which rows were lost.
//!
//! The others may then be older than what they speak of, and a wrong extent would show another
//! file's data, which is worse than zeros. So an extent must be confirmed in every way there is.

use crate::errno::Result;
use crate::fsck::claims::{Claims, taken_runs};
use crate::fsck::extents::{Key, report_drop};
use crate::fsck::groups::{Group, Layout, Recorded};
use crate::fsck::model::Model;
use crate::fsck::report::Findings;
use crate::fsck::table::Followers;
use crate::image::pins::Run;

/// Drops every extent that something speaks against.
///
/// # Errors
/// Those of the database.
pub fn drop_doubtful(m: &mut Model, f: &mut Findings, layout: Layout<'_>) -> Result<()> {
    drop_miscounted(m, f)?;
    drop_unmarked(m, f, layout)?;
    drop_contested(m, f, layout)
}

fn drop_extents(m: &mut Model, f: &mut Findings, bad: Vec<(Key, String)>) {
    for (key, problem) in bad {
        m.extents.remove(key);
        report_drop(f, key, problem);
    }
}

/// The extents of a file must come to the blocks that its inode counts: a row that strayed to
/// another inode leaves both wrong, and a file of which a page was lost is not what it was...
fn drop_miscounted(m: &mut Model, f: &mut Findings) -> Result<()> {
    let mut bad = Vec::new();
    let mut inodes = m.inodes.rows();
    let mut extents = Followers::new(&m.extents);
    while let Some((ino, attr)) = inodes.next()? {
        let (mut keys, mut sum) = (Vec::new(), 0u64);
        while let Some((key, extent)) = extents.next_upto(ino)? {
            if key.0 == ino {
                keys.push(key);
                sum = sum.saturating_add(extent.blocks);
            }
        }
        if attr.is_file() && sum != attr.blocks {
            bad.append(&mut keys);
        }
    }
    let problem = "the file's extents do not come to its block count, and rows are damaged";
    drop_extents(m, f, bad.into_iter().map(|key| (key, problem.to_owned())).collect());
    Ok(())
}

/// ... an extent must be confirmed by the bitmap, where that can be read...
fn drop_unmarked(m: &mut Model, f: &mut Findings, layout: Layout<'_>) -> Result<()> {
    let marked = marked(m, layout)?;
    let mut bad = Vec::new();
    let mut rows = m.extents.rows();
    while let Some((key, extent)) = rows.next()? {
        let run = Run { start: extent.start, blocks: extent.blocks };
        if layout.holds(&extent) && !marked.covers(run) {
            bad.push((key, format!("blocks at {} are marked free", extent.start)));
        }
    }
    drop_extents(m, f, bad);
    Ok(())
}

/// What the bitmaps have in use; a group that they say nothing of may be.
fn marked(m: &Model, layout: Layout<'_>) -> Result<Claims> {
    let mut marked = Claims::new(layout.total);
    let mut recorded = Recorded::new(m, layout.total)?;
    for group in 0..marked.groups() {
        let len = marked.len(group);
        match recorded.group(group)? {
            Group::Bits(bits) => taken_runs(&bits, group, len).for_each(|run| marked.add(run)),
            Group::Missing | Group::Contradictory(_) => marked.add(layout.whole(group)),
        }
    }
    Ok(marked)
}

/// ... and where two files claim a block, neither can be believed.
fn drop_contested(m: &mut Model, f: &mut Findings, layout: Layout<'_>) -> Result<()> {
    let (mut once, mut twice) = (Claims::new(layout.total), Claims::new(layout.total));
    let mut rows = m.extents.rows();
    while let Some((_, extent)) = rows.next()? {
        let run = Run { start: extent.start, blocks: extent.blocks };
        if layout.holds(&extent) && !once.claim(run) {
            twice.add(run);
            once.add(run);
        }
    }
    let mut bad = Vec::new();
    if twice.blocks() > 0 {
        let mut rows = m.extents.rows();
        while let Some((key, extent)) = rows.next()? {
            let run = Run { start: extent.start, blocks: extent.blocks };
            if layout.holds(&extent) && twice.touches(run) {
                let problem = "its blocks are claimed twice, and rows of the table are damaged";
                bad.push((key, problem.to_owned()));
            }
        }
    }
    drop_extents(m, f, bad);
    Ok(())
}
