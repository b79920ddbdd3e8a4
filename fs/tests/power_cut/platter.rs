//! What is left of a disk: sectors over a base that all states share.

use inflight::disk::{Disk, Event, MemoryDisk, SECTOR};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

pub type Sector = [u8; SECTOR as usize];

/// Sectors that differ from the base, and a hash of all of them that is kept up to date.
#[derive(Clone, Debug)]
pub struct Sectors {
    base: Arc<MemoryDisk>,
    changed: HashMap<u64, Arc<Sector>>,
    hash: u64,
}

impl Sectors {
    pub fn new(base: Arc<MemoryDisk>) -> Sectors {
        Sectors { base, changed: HashMap::new(), hash: 0 }
    }

    /// Equal for equal contents over the same base.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn get(&self, sector: u64) -> Arc<Sector> {
        match self.changed.get(&sector) {
            Some(bytes) => bytes.clone(),
            None => Arc::new(self.below(sector)),
        }
    }

    fn below(&self, sector: u64) -> Sector {
        let mut bytes = [0; SECTOR as usize];
        self.base.read(sector * SECTOR, &mut bytes).expect("inside the disk");
        bytes
    }

    pub fn set(&mut self, sector: u64, bytes: Arc<Sector>) {
        let new = digest(sector, &bytes);
        let old = match self.changed.insert(sector, bytes) {
            Some(old) => digest(sector, &old),
            None => digest(sector, &self.below(sector)),
        };
        self.hash ^= old ^ new;
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.base.len()? {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.base.read(offset, out)?;
        for (sector, from, to, at) in parts(offset, out.len()) {
            if let Some(bytes) = self.changed.get(&sector) {
                out[at..at + to - from].copy_from_slice(&bytes[from..to]);
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (sector, from, to, at) in parts(offset, data.len()) {
            let mut bytes = *self.get(sector);
            bytes[from..to].copy_from_slice(&data[at..at + to - from]);
            // The hash is of no use once a filesystem writes here.
            self.changed.insert(sector, Arc::new(bytes));
        }
    }

    /// What each sector is after `event`, when it was `before` before.
    pub fn effect(
        event: &Event,
        mut before: impl FnMut(u64) -> Arc<Sector>,
    ) -> Vec<(u64, Arc<Sector>)> {
        match event {
            Event::Sync => Vec::new(),
            Event::Write { offset, data } => parts(*offset, data.len())
                .map(|(sector, from, to, at)| {
                    let mut bytes = *before(sector);
                    bytes[from..to].copy_from_slice(&data[at..at + to - from]);
                    (sector, Arc::new(bytes))
                })
                .collect(),
            Event::Discard { offset, len } => {
                let zeros: Arc<Sector> = Arc::new([0; SECTOR as usize]);
                let sectors = offset.div_ceil(SECTOR)..(offset + len) / SECTOR;
                sectors.map(|sector| (sector, zeros.clone())).collect()
            }
        }
    }
}

fn digest(sector: u64, bytes: &Sector) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((sector, bytes))
}

/// The sectors of a range: number, first and last byte in it, and where it is in the buffer.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let from = (at % SECTOR) as usize;
        let n = (len - done).min(SECTOR as usize - from);
        let part = (at / SECTOR, from, from + n, done);
        done += n;
        (n > 0).then_some(part)
    })
}

/// A disk with what a power cut left.
#[derive(Debug)]
pub struct Platter {
    sectors: RwLock<Sectors>,
    writable: AtomicBool,
}

impl Platter {
    /// Read-only at first.
    pub fn new(sectors: Sectors) -> Platter {
        Platter { sectors: RwLock::new(sectors), writable: false.into() }
    }

    /// What it holds now.
    pub fn sectors(&self) -> Sectors {
        self.sectors.read().clone()
    }

    pub fn make_writable(&self) {
        self.writable.store(true, Relaxed);
    }
}

impl Disk for Platter {
    fn name(&self) -> &Path {
        Path::new("platter")
    }

    fn is_writable(&self) -> bool {
        self.writable.load(Relaxed)
    }

    fn len(&self) -> io::Result<u64> {
        self.sectors.read().base.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.sectors.read().read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        assert!(self.is_writable(), "written although it may only be read");
        if offset + data.len() as u64 > self.len()? {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.sectors.write().write(offset, data);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
