//! A disk with a cache of writes, which a power cut takes away.
//!
//! What was written since the last flush is kept in memory, up to a bound, as in the cache of a drive that lies to nobody: a
//! flush makes it durable. Beyond the bound the drive writes back what it has, without being asked, which it may.

use crate::disk::{Disk, FileDisk, Over};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// What is kept whole: a block of the filesystem.
const BLOCK: usize = 4096;
/// Most blocks that are kept back: 256 MiB.
const KEPT_MAX: usize = 1 << 16;

/// An image whose unflushed writes can be lost.
#[derive(Debug)]
pub struct CuttableDisk {
    inner: Arc<FileDisk>,
    cache: RwLock<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    /// Blocks that were written since the last flush, by number.
    blocks: BTreeMap<u64, Box<[u8]>>,
    /// There is no power.
    is_cut: bool,
}

impl CuttableDisk {
    /// With nothing in its cache.
    pub fn new(inner: Arc<FileDisk>) -> CuttableDisk {
        CuttableDisk { inner, cache: RwLock::default() }
    }

    fn write_back(&self, cache: &mut Cache) -> io::Result<()> {
        for (block, bytes) in &cache.blocks {
            self.inner.write(block * BLOCK as u64, bytes)?;
        }
        cache.blocks.clear();
        Ok(())
    }
}

/// The parts of a range in each block: number, first byte in the block, bytes.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let end = offset + len as u64;
    std::iter::from_fn(move || {
        let (block, from) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
        let bytes = (end - at).min((BLOCK - from) as u64) as usize;
        at += bytes as u64;
        (bytes > 0).then_some((block, from, bytes))
    })
}

fn powered(cache: &Cache) -> io::Result<()> {
    if cache.is_cut { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
}

impl Over for CuttableDisk {
    fn below(&self) -> &dyn Disk {
        &*self.inner
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let cache = self.cache.read();
        powered(&cache)?;
        self.inner.read(offset, out)?;
        let (first, end) =
            (offset / BLOCK as u64, (offset + out.len() as u64).div_ceil(BLOCK as u64));
        if cache.blocks.range(first..end).next().is_none() {
            return Ok(());
        }
        let mut rest = out;
        for (block, from, bytes) in parts(offset, rest.len()) {
            let (part, tail) = rest.split_at_mut(bytes);
            if let Some(kept) = cache.blocks.get(&block) {
                part.copy_from_slice(&kept[from..from + bytes]);
            }
            rest = tail;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut cache = self.cache.write();
        powered(&cache)?;
        if cache.blocks.len() >= KEPT_MAX {
            self.write_back(&mut cache)?;
        }
        let mut rest = data;
        for (block, from, bytes) in parts(offset, data.len()) {
            let (part, tail) = rest.split_at(bytes);
            rest = tail;
            if let Some(kept) = cache.blocks.get_mut(&block) {
                kept[from..from + bytes].copy_from_slice(part);
                continue;
            }
            let mut whole = vec![0; BLOCK].into_boxed_slice();
            if bytes < BLOCK {
                self.inner.read(block * BLOCK as u64, &mut whole)?;
            }
            whole[from..from + bytes].copy_from_slice(part);
            cache.blocks.insert(block, whole);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut cache = self.cache.write();
        powered(&cache)?;
        self.write_back(&mut cache)?;
        self.inner.sync()
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut cache = self.cache.write();
        powered(&cache)?;
        // Blocks that nobody needs: losing the discard would change nothing that is read.
        let whole = offset.div_ceil(BLOCK as u64)..(offset + len) / BLOCK as u64;
        cache.blocks.retain(|block, _| !whole.contains(block));
        self.inner.discard(offset, len)
    }

    fn distrust(&self) -> io::Result<()> {
        Over::sync(self)?;
        self.inner.distrust()
    }

    fn cut(&self) -> Option<u64> {
        let mut cache = self.cache.write();
        cache.is_cut = true;
        Some((std::mem::take(&mut cache.blocks).len() * BLOCK) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, CuttableDisk, KEPT_MAX};
    use crate::disk::{Disk, FileDisk};
    use std::sync::Arc;

    fn disk() -> (tempfile::NamedTempFile, CuttableDisk) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(16 * BLOCK as u64).expect("room");
        let inner = FileDisk::open(file.path(), true).expect("a disk");
        (file, CuttableDisk::new(Arc::new(inner)))
    }

    #[test]
    fn what_was_written_is_read_and_a_cut_leaves_what_was_flushed() {
        let (file, disk) = disk();
        disk.write(4000, &[1; 200]).expect("write");
        disk.sync().expect("sync");
        disk.write(4090, &[2; 8192]).expect("write");
        let mut seen = [9; 12_400];
        disk.read(3990, &mut seen).expect("read");
        let expected = [(0, 10), (1, 90), (2, 8192)].map(|(byte, n)| vec![byte; n]).concat();
        assert_eq!(seen[..expected.len()], expected[..]);
        assert!(seen[expected.len()..].iter().all(|byte| *byte == 0));
        assert_eq!(disk.cut(), Some(3 * BLOCK as u64));
        assert!(disk.read(0, &mut seen).is_err() && disk.write(0, &[1]).is_err());
        assert!(disk.sync().is_err());
        let left = std::fs::read(file.path()).expect("read");
        assert_eq!(left[4000..4200], [1; 200]);
        assert!(left[4200..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_full_cache_writes_back() {
        let (file, disk) = disk();
        disk.cache
            .write()
            .blocks
            .extend((100..100 + KEPT_MAX as u64).map(|block| (block, vec![5; BLOCK].into())));
        disk.write(0, &[7; 10]).expect("write");
        assert_eq!(disk.cache.read().blocks.len(), 1);
        assert_eq!(std::fs::read(file.path()).expect("read")[100 * BLOCK], 5);
    }
}
