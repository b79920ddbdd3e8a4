//! A disk with a cache of writes, which a power cut or a failed flush takes away.

use std::collections::BTreeMap;
use std::io;

use crate::disk::memory::PAGE;
use crate::disk::{Disk, MemoryDisk, Over};
use parking_lot::Mutex;

/// What a disk writes whole or not at all.
pub const SECTOR: u64 = 512;
/// Sectors of a page; a set of them fits a byte.
const SECTORS: u64 = PAGE / SECTOR;
const _: () = assert!(SECTORS == u8::BITS as u64);

/// A set of sectors: for each page that has some, a bit for each.
type Sectors = BTreeMap<u64, u8>;

/// Two disks in memory: what reads show, and what would be left without power.
#[derive(Debug)]
pub struct VolatileDisk {
    seen: MemoryDisk,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    platter: MemoryDisk,
    /// Sectors that were written since the last flush.
    dirty: Sectors,
    /// Sectors that a failed flush took for clean.
    lost: Sectors,
}

impl VolatileDisk {
    /// A disk that begins with what `durable` has.
    pub fn new(durable: &MemoryDisk) -> VolatileDisk {
        let state = State { platter: durable.fork(), dirty: Sectors::new(), lost: Sectors::new() };
        VolatileDisk { seen: durable.fork(), state: Mutex::new(state) }
    }

    /// What a power cut leaves, when of the sectors that no flush covered just those survive that
    /// `survives` names.
    pub fn cut(&self, mut survives: impl FnMut(u64) -> bool) -> io::Result<MemoryDisk> {
        let state = self.state.lock();
        let left = state.platter.fork();
        let mut kept = sectors(&state.dirty).filter(|sector| survives(*sector));
        kept.try_for_each(|sector| copy(&self.seen, &left, sector))?;
        Ok(left)
    }

    /// A flush fails as on Linux: the pages stay readable and count as clean, so that no later
    /// flush writes them (errseq and mark_buffer_write_io_error; the "fsyncgate" of 2018).
    pub fn lose(&self) {
        let mut state = self.state.lock();
        for (page, bits) in std::mem::take(&mut state.dirty) {
            *state.lost.entry(page).or_default() |= bits;
        }
    }

    fn note(&self, offset: u64, len: u64) {
        let mut state = self.state.lock();
        for sector in offset / SECTOR..(offset + len).div_ceil(SECTOR) {
            *state.dirty.entry(sector / SECTORS).or_default() |= 1 << (sector % SECTORS);
        }
    }
}

/// Their numbers, in order.
fn sectors(set: &Sectors) -> impl Iterator<Item = u64> {
    set.iter().flat_map(|(page, bits)| {
        (0..SECTORS).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| page * SECTORS + bit)
    })
}

fn copy(from: &MemoryDisk, to: &MemoryDisk, sector: u64) -> io::Result<()> {
    let mut bytes = [0; SECTOR as usize];
    from.read(sector * SECTOR, &mut bytes)?;
    to.write(sector * SECTOR, &bytes)
}

impl Over for VolatileDisk {
    fn below(&self) -> &dyn Disk {
        &self.seen
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.seen.write(offset, data)?;
        self.note(offset, data.len() as u64);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let dirty = std::mem::take(&mut state.dirty);
        // A page of which nothing was lost is the same on both then.
        let (mixed, same) = dirty.into_iter().partition(|(page, _)| state.lost.contains_key(page));
        let same: Sectors = same;
        state.platter.share(&self.seen, same.into_keys());
        sectors(&mixed).try_for_each(|sector| copy(&self.seen, &state.platter, sector))
    }

    fn distrust(&self) -> io::Result<()> {
        Over::sync(self)?;
        let mut state = self.state.lock();
        let lost = std::mem::take(&mut state.lost);
        sectors(&lost).try_for_each(|sector| copy(&state.platter, &self.seen, sector))
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.seen.discard(offset, len)?;
        self.note(offset, len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::VolatileDisk;
    use crate::disk::{Disk, MemoryDisk};

    fn byte(disk: &dyn Disk, at: u64) -> u8 {
        let mut out = [0];
        disk.read(at, &mut out).expect("read");
        out[0]
    }

    #[test]
    fn a_cut_leaves_what_was_flushed_and_what_happened_to_arrive() {
        let disk = VolatileDisk::new(&MemoryDisk::new(8192));
        disk.write(0, &[1; 512]).expect("write");
        disk.sync().expect("sync");
        disk.write(0, &[2; 1024]).expect("write");
        let left = disk.cut(|sector| sector == 1).expect("cut");
        assert_eq!([byte(&left, 0), byte(&left, 512)], [1, 2]);
    }

    #[test]
    fn flushes_of_pages_and_of_parts_of_them_arrive_and_nothing_else_does() {
        let disk = VolatileDisk::new(&MemoryDisk::new(3 * 4096));
        disk.write(0, &[1; 3 * 4096]).expect("write");
        disk.lose();
        // Beside what was lost.
        disk.write(512, &[2; 512]).expect("write");
        disk.sync().expect("sync");
        let left = disk.cut(|_| false).expect("cut");
        assert_eq!([0, 512, 1024, 4096, 8192].map(|at| byte(&left, at)), [0, 2, 0, 0, 0]);
        let disk = VolatileDisk::new(&MemoryDisk::new(3 * 4096));
        disk.write(4096 + 512, &[3; 512]).expect("write");
        disk.sync().expect("sync");
        disk.write(4096, &[4; 512]).expect("write");
        disk.discard(2 * 4096, 4096).expect("discard");
        let left = disk.cut(|_| false).expect("cut");
        assert_eq!([4096, 4608, 5120].map(|at| byte(&left, at)), [0, 3, 0], "not flushed");
        disk.sync().expect("sync");
        let left = disk.cut(|_| false).expect("cut");
        assert_eq!([4096, 4608, 5120].map(|at| byte(&left, at)), [4, 3, 0]);
    }

    #[test]
    fn what_a_flush_lost_stays_readable_and_never_arrives() {
        let disk = VolatileDisk::new(&MemoryDisk::new(8192));
        disk.write(7, &[3]).expect("write");
        disk.lose();
        disk.sync().expect("a later flush knows of nothing");
        assert_eq!(byte(&disk, 7), 3);
        assert_eq!(byte(&disk.cut(|_| true).expect("cut"), 7), 0);
        disk.distrust().expect("nothing is dirty");
        assert_eq!(byte(&disk, 7), 0);
    }
}
