//! How many blocks of each group are free: all that must be known of a group that nobody touches.

use crate::image::space::GROUP_BLOCKS;
use std::collections::BTreeSet;

/// Groups whose numbers share a row: 1 KiB for 16 GiB.
pub const COUNTS_GROUPS: u64 = 512;

/// The numbers of free blocks in both bitmaps.
pub struct Counts {
    total: u64,
    disk: Vec<u16>,
    busy: Vec<u16>,
    /// Free in `busy`, over each row.
    busy_rows: Vec<u32>,
    disk_all: u64,
    busy_all: u64,
    /// Rows that differ from the running transaction.
    dirty: BTreeSet<u64>,
}

impl Counts {
    /// `total` blocks that are all free.
    pub fn new(total: u64) -> Counts {
        let groups = total.div_ceil(GROUP_BLOCKS);
        let len = |group: u64| GROUP_BLOCKS.min(total - group * GROUP_BLOCKS) as u16;
        let free: Vec<u16> = (0..groups).map(len).collect();
        Counts {
            total,
            busy_rows: free.chunks(COUNTS_GROUPS as usize).map(sum).collect(),
            disk: free.clone(),
            busy: free,
            disk_all: total,
            busy_all: total,
            dirty: BTreeSet::new(),
        }
    }

    /// Whether a group is the one at the end.
    pub fn is_last(&self, group: u64) -> bool {
        group + 1 == self.disk.len() as u64
    }

    /// There are `total` blocks now; the new ones are free. Gives how many of them the last group got that there was.
    pub fn grow(&mut self, total: u64) -> u64 {
        let last = self.disk.len() as u64 - 1;
        let before = self.len(last);
        self.total = total;
        let added = self.len(last) - before;
        self.add_disk(last, added, false);
        self.add_busy(last, added, false);
        for group in last + 1..total.div_ceil(GROUP_BLOCKS) {
            let (len, row) = (self.len(group), group / COUNTS_GROUPS);
            self.disk.push(len as u16);
            self.busy.push(len as u16);
            self.disk_all += len;
            self.busy_all += len;
            if row as usize == self.busy_rows.len() {
                self.busy_rows.push(0);
            }
            self.busy_rows[row as usize] += len as u32;
            self.dirty.insert(row);
        }
        added
    }

    /// Free blocks in what the next commit will say.
    pub fn disk(&self) -> u64 {
        self.disk_all
    }

    /// Free blocks that can be handed out.
    pub fn busy(&self) -> u64 {
        self.busy_all
    }

    /// Blocks of a group.
    pub fn len(&self, group: u64) -> u64 {
        GROUP_BLOCKS.min(self.total - group * GROUP_BLOCKS)
    }

    /// Free blocks of a group in what the next commit will say.
    pub fn disk_of(&self, group: u64) -> u64 {
        self.disk[group as usize].into()
    }

    /// True when every block of a group can be handed out.
    pub fn is_empty(&self, group: u64) -> bool {
        u64::from(self.busy[group as usize]) == GROUP_BLOCKS
    }

    /// The first group at or after `group` with a block that can be handed out.
    pub fn next_free(&self, group: u64) -> Option<u64> {
        let mut at = group as usize;
        while at < self.busy.len() {
            let row = at / COUNTS_GROUPS as usize;
            let end = ((row + 1) * COUNTS_GROUPS as usize).min(self.busy.len());
            if self.busy_rows[row] > 0
                && let Some(i) = self.busy[at..end].iter().position(|n| *n > 0)
            {
                return Some((at + i) as u64);
            }
            at = end;
        }
        None
    }

    /// Blocks of a group were taken, or freed, in what the next commit will say.
    pub fn add_disk(&mut self, group: u64, blocks: u64, taken: bool) {
        let free = &mut self.disk[group as usize];
        *free = if taken { *free - blocks as u16 } else { *free + blocks as u16 };
        self.disk_all = if taken { self.disk_all - blocks } else { self.disk_all + blocks };
        self.dirty.insert(group / COUNTS_GROUPS);
    }

    /// Blocks of a group were taken out of the allocator, or came back.
    pub fn add_busy(&mut self, group: u64, blocks: u64, taken: bool) {
        let (free, row) =
            (&mut self.busy[group as usize], &mut self.busy_rows[(group / COUNTS_GROUPS) as usize]);
        if taken {
            *free -= blocks as u16;
            *row -= blocks as u32;
            self.busy_all -= blocks;
        } else {
            *free += blocks as u16;
            *row += blocks as u32;
            self.busy_all += blocks;
        }
    }

    /// Nothing of a group can be handed out any more.
    pub fn lose(&mut self, group: u64) {
        let free = u64::from(self.busy[group as usize]);
        self.add_busy(group, free, true);
    }

    /// Takes a row from the database, before anything was taken out of the allocator.
    pub fn decode(&mut self, index: u64, row: &[u8]) {
        // A row of groups that the filesystem does not have is fsck's to drop.
        let Some(first) = index.checked_mul(COUNTS_GROUPS).map(|first| first as usize) else {
            return;
        };
        for (i, bytes) in row.chunks_exact(2).enumerate() {
            let group = first + i;
            if group >= self.disk.len() {
                return;
            }
            let free = u64::from(u16::from_le_bytes([bytes[0], bytes[1]]));
            let free = free.min(self.len(group as u64)) as u16;
            let old = std::mem::replace(&mut self.disk[group], free);
            self.disk_all = self.disk_all - u64::from(old) + u64::from(free);
            let old = std::mem::replace(&mut self.busy[group], free);
            self.busy_all = self.busy_all - u64::from(old) + u64::from(free);
            let row = &mut self.busy_rows[index as usize];
            *row = *row - u32::from(old) + u32::from(free);
        }
    }

    /// The rows that changed since the last call; `None` for one whose groups are all free.
    pub fn take_dirty(&mut self) -> Vec<(u64, Option<Vec<u8>>)> {
        std::mem::take(&mut self.dirty).into_iter().map(|index| (index, self.row(index))).collect()
    }

    fn row(&self, index: u64) -> Option<Vec<u8>> {
        let first = (index * COUNTS_GROUPS) as usize;
        let end = (first + COUNTS_GROUPS as usize).min(self.disk.len());
        let full = (first..end).all(|g| self.disk_of(g as u64) == self.len(g as u64));
        (!full).then(|| self.disk[first..end].iter().flat_map(|n| n.to_le_bytes()).collect())
    }
}

fn sum(counts: &[u16]) -> u32 {
    counts.iter().map(|n| u32::from(*n)).sum()
}
