//! Extents: inside the image, in order, and no block in two of them; and what inodes count.

use crate::errno::Result;
use crate::fsck::census::Census;
use crate::fsck::claims::Claims;
use crate::fsck::groups::Layout;
use crate::fsck::model::Model;
use crate::fsck::report::{FINDINGS_MAX, Findings};
use crate::fsck::rows::Extents;
use crate::fsck::table::{Correction, Followers};
use crate::fsck::{inodes, tree};
use crate::image::pins::Run;
use crate::image::tables::Extent;
use crate::volume::extents::BLOCK_MAX;
use std::collections::BTreeSet;

/// Inode and first file block.
pub type Key = (u64, u64);

/// Checks every extent and everything that inodes count. Returns the blocks that have an owner.
///
/// # Errors
/// Those of the database.
pub fn check(
    m: &mut Model,
    f: &mut Findings,
    layout: Layout<'_>,
    census: &Census,
    orphans: &BTreeSet<u64>,
) -> Result<Claims> {
    let mut judge =
        Judge { layout, claims: layout.fixed(), drop: Vec::new(), contested: Vec::new() };
    let mut fixed = Vec::new();
    let mut inodes = m.inodes.rows();
    let mut extents = Followers::new(&m.extents);
    while let Some((ino, mut attr)) = inodes.next()? {
        let before = attr.clone();
        tree::check_counts(f, ino, &mut attr, census, orphans.contains(&ino));
        let (mut blocks, mut free_from) = (0, 0);
        while let Some((key, extent)) = extents.next_upto(ino)? {
            let owner = (key.0 == ino).then_some(attr.is_file());
            if judge.take(f, key, extent, owner, free_from) {
                blocks += extent.blocks;
                free_from = key.1 + extent.blocks;
            }
        }
        if attr.blocks != blocks {
            let problem = format!("counts {} blocks, has {blocks}", attr.blocks);
            f.error(inodes::object(ino), problem, "the number is set");
            attr.blocks = blocks;
        }
        if attr != before {
            fixed.push((ino, Some(attr)));
        }
    }
    while let Some((key, extent)) = extents.next_upto(u64::MAX)? {
        judge.take(f, key, extent, None, 0);
    }
    m.inodes.correct(fixed);
    m.extents.correct(judge.drop);
    report_contested(m, f, layout, judge.contested)?;
    Ok(judge.claims)
}

/// Drops an extent, and says why.
pub fn report_drop(f: &mut Findings, key: Key, problem: impl Into<String>) {
    let object = format!("inode {}, file block {}", key.0, key.1);
    f.error(object, problem, "the extent is dropped and reads as zeros");
}

/// Decides which extents are kept.
struct Judge<'a> {
    layout: Layout<'a>,
    claims: Claims,
    drop: Vec<Correction<Extents>>,
    /// Dropped, because others have their blocks.
    contested: Vec<(Key, Run)>,
}

impl Judge<'_> {
    /// Keeps an extent, or drops it. `is_file` is what its inode is, if there is one.
    fn take(
        &mut self,
        f: &mut Findings,
        key: Key,
        extent: Extent,
        is_file: Option<bool>,
        free_from: u64,
    ) -> bool {
        if let Some(problem) = self.problem(key, &extent, is_file, free_from) {
            report_drop(f, key, problem);
        } else {
            let run = Run { start: extent.start, blocks: extent.blocks };
            if self.claims.claim(run) {
                return true;
            }
            self.contested.push((key, run));
        }
        self.drop.push((key, None));
        false
    }

    fn problem(
        &self,
        (_, logical): Key,
        extent: &Extent,
        is_file: Option<bool>,
        free_from: u64,
    ) -> Option<String> {
        match is_file {
            None => return Some("the inode does not exist".into()),
            Some(false) => return Some("the inode is no regular file".into()),
            Some(true) => {}
        }
        let (start, blocks) = (extent.start, extent.blocks);
        if blocks == 0 || logical >= BLOCK_MAX || blocks > BLOCK_MAX - logical {
            return Some(format!("a length of {blocks} blocks is impossible"));
        }
        if !self.layout.holds(extent) {
            return Some(format!("blocks {start}+{blocks} are outside the image"));
        }
        (logical < free_from).then(|| "it overlaps the extent before".into())
    }
}

/// Says who has the blocks that others claimed too: only now that is worth a look at all extents.
fn report_contested(
    m: &Model,
    f: &mut Findings,
    layout: Layout<'_>,
    contested: Vec<(Key, Run)>,
) -> Result<()> {
    let named = &contested[..contested.len().min(FINDINGS_MAX)];
    let mut wanted = Claims::new(layout.total);
    named.iter().for_each(|(_, run)| wanted.add(*run));
    let fixed = layout.fixed();
    let mut owners: Vec<Option<u64>> = vec![None; named.len()];
    if !named.is_empty() {
        let mut rows = m.extents.rows();
        while let Some(((ino, _), extent)) = rows.next()? {
            let run = Run { start: extent.start, blocks: extent.blocks };
            if wanted.touches(run) {
                let both = |other: &Run| run.start < other.end() && other.start < run.end();
                let theirs = owners.iter_mut().zip(named).filter(|(_, (_, other))| both(other));
                theirs.for_each(|(owner, _)| *owner = owner.or(Some(ino)));
            }
        }
    }
    for (i, (key, run)) in contested.into_iter().enumerate() {
        let owner = match owners.get(i) {
            _ if fixed.touches(run) => "the filesystem's own structures".to_owned(),
            Some(Some(ino)) => format!("inode {ino}"),
            _ => "another inode".to_owned(),
        };
        let problem = format!("blocks {}+{} belong to {owner} already", run.start, run.blocks);
        report_drop(f, key, problem);
    }
    Ok(())
}
