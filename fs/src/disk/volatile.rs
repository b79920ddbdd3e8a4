//! A disk with a cache of writes, which a power cut or a failed flush takes away.

use std::collections::BTreeSet;
use std::io;

use crate::disk::{Disk, MemoryDisk, Over};
use parking_lot::Mutex;

/// What a disk writes whole or not at all.
pub const SECTOR: u64 = 512;

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
    dirty: BTreeSet<u64>,
    /// Sectors that a failed flush took for clean.
    lost: BTreeSet<u64>,
}

impl VolatileDisk {
    /// A disk that begins with what `durable` has.
    pub fn new(durable: &MemoryDisk) -> VolatileDisk {
        let state =
            State { platter: durable.fork(), dirty: BTreeSet::new(), lost: BTreeSet::new() };
        VolatileDisk { seen: durable.fork(), state: Mutex::new(state) }
    }

    /// What a power cut leaves, when of the sectors that no flush covered just those survive that
    /// `survives` names.
    pub fn cut(&self, mut survives: impl FnMut(u64) -> bool) -> io::Result<MemoryDisk> {
        let state = self.state.lock();
        let left = state.platter.fork();
        let kept = state.dirty.iter().filter(|sector| survives(**sector));
        kept.copied().try_for_each(|sector| copy(&self.seen, &left, sector))?;
        Ok(left)
    }

    /// A flush fails as on Linux: the pages stay readable and count as clean, so that no later
    /// flush writes them (errseq and mark_buffer_write_io_error; the "fsyncgate" of 2018).
    pub fn lose(&self) {
        let mut state = self.state.lock();
        let lost = std::mem::take(&mut state.dirty);
        state.lost.extend(lost);
    }

    fn note(&self, offset: u64, len: u64) {
        let end = offset + len;
        self.state.lock().dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
    }
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
        dirty.into_iter().try_for_each(|sector| copy(&self.seen, &state.platter, sector))
    }

    fn distrust(&self) -> io::Result<()> {
        Over::sync(self)?;
        let mut state = self.state.lock();
        let lost = std::mem::take(&mut state.lost);
        lost.into_iter().try_for_each(|sector| copy(&state.platter, &self.seen, sector))
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
