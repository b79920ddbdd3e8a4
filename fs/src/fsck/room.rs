//! Blocks that a repair may write to.

use crate::errno::Result;
use crate::fsck::claims::{Claims, taken_runs};
use crate::fsck::database::Examined;
use crate::fsck::groups::{Group, Layout, Recorded};
use crate::image::pins::{Pins, Run};
use crate::image::space::{COUNTS_GROUPS, Space};
use std::sync::Arc;

/// Groups that are free in part and are offered: their bits are kept in memory.
const GROUPS_OFFERED: usize = 1 << 14;

/// Sets `want` blocks aside, or as many as there are, that nobody has a claim on: neither the
/// bitmaps as they are, nor the files, nor the metadata area of `layout`. What a lost bitmap said may
/// be in use, unless nothing else is left: no file that was found has it.
///
/// # Errors
/// Those of the database.
pub fn room(examined: &Examined, layout: Layout<'_>, want: u64) -> Result<Arc<Space>> {
    let space = unclaimed(examined, layout, layout.total, true)?;
    space.reserve(want, None);
    if space.reserved() > 0 {
        return Ok(space);
    }
    let space = unclaimed(examined, layout, layout.total, false)?;
    space.reserve(want, None);
    Ok(space)
}

/// The blocks before `end` that nobody has a claim on.
///
/// # Errors
/// Those of the database.
pub fn room_before(examined: &Examined, layout: Layout<'_>, end: u64) -> Result<Arc<Space>> {
    unclaimed(examined, layout, end, true)
}

/// The blocks before `end` that nobody has a claim on; `shuns_unknown` leaves out what no bitmap speaks of.
fn unclaimed(
    examined: &Examined,
    layout: Layout<'_>,
    end: u64,
    shuns_unknown: bool,
) -> Result<Arc<Space>> {
    let fixed = layout.fixed();
    let space = Arc::new(Space::new(end, Arc::new(Pins::default())));
    let mut recorded = Recorded::new(&examined.model, layout.total)?;
    let (mut taken, mut offered): (Vec<Run>, usize) = (Vec::new(), 0);
    let groups = Claims::new(end).groups();
    for index in 0..groups.div_ceil(COUNTS_GROUPS) {
        let mut counts = Vec::new();
        for group in index * COUNTS_GROUPS..((index + 1) * COUNTS_GROUPS).min(groups) {
            let mut all = Claims::new(end);
            match recorded.group(group)? {
                Group::Missing if shuns_unknown => {
                    all.add(Layout { total: end, chunks: &[] }.whole(group))
                }
                Group::Missing => {}
                Group::Bits(bits) | Group::Contradictory(bits) => {
                    taken_runs(&bits, group, all.len(group)).for_each(|run| all.add(run));
                }
            }
            for claims in [&examined.claims, &fixed] {
                let bits = claims.bits(group);
                taken_runs(&bits, group, all.len(group)).for_each(|run| all.add(run));
            }
            let is_partly_free = all.blocks() > 0 && all.free(group) > 0;
            offered += usize::from(is_partly_free);
            // A group that counts as full needs no bits.
            let is_closed = all.free(group) == 0 || is_partly_free && offered > GROUPS_OFFERED;
            let free = if is_closed { 0 } else { all.len(group) };
            counts.extend((free as u16).to_le_bytes());
            if !is_closed {
                taken.extend(taken_runs(&all.bits(group), group, all.len(group)));
            }
        }
        space.load_counts(index, &counts);
    }
    taken.into_iter().for_each(|run| space.claim(run));
    Ok(space)
}
