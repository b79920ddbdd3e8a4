//! A disk in memory, whose copies share what they have in common.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use parking_lot::RwLock;

/// Bytes that copies of a disk share or do not.
pub(super) const PAGE: u64 = 4096;
type Page = [u8; PAGE as usize];

/// Pages that were written; the others read as zeros. Nothing is ever lost.
#[derive(Debug)]
pub struct MemoryDisk {
    len: u64,
    pages: RwLock<HashMap<u64, Arc<Page>>>,
}

impl MemoryDisk {
    /// A disk of `len` zeros.
    pub fn new(len: u64) -> MemoryDisk {
        MemoryDisk { len, pages: RwLock::default() }
    }

    /// A disk with the same contents, which goes its own way from here on. Costs a pointer for
    /// each page that was written.
    pub fn fork(&self) -> MemoryDisk {
        MemoryDisk { len: self.len, pages: RwLock::new(self.pages.read().clone()) }
    }

    /// Makes the pages of these numbers what they are in `from`, at the price of a pointer each.
    #[cfg(feature = "testing")]
    pub(super) fn share(&self, from: &MemoryDisk, pages: impl Iterator<Item = u64>) {
        let (mut ours, theirs) = (self.pages.write(), from.pages.read());
        for page in pages {
            match theirs.get(&page) {
                Some(bytes) => ours.insert(page, Arc::clone(bytes)),
                None => ours.remove(&page),
            };
        }
    }

    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EIO)),
        }
    }
}

/// The pages that `len` bytes from `offset` touch: number, bytes of the page, bytes of the range.
fn pages(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let from = (at % PAGE) as usize;
        let n = (len - done).min(PAGE as usize - from);
        let range = done..done + n;
        done += n;
        (n > 0).then(|| (at / PAGE, from..from + n, range))
    })
}

impl Disk for MemoryDisk {
    fn name(&self) -> &Path {
        Path::new("memory")
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check(offset, out.len())?;
        let map = self.pages.read();
        for (page, part, range) in pages(offset, out.len()) {
            match map.get(&page) {
                Some(bytes) => out[range].copy_from_slice(&bytes[part]),
                None => out[range].fill(0),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len())?;
        let mut map = self.pages.write();
        for (page, part, range) in pages(offset, data.len()) {
            let bytes = map.entry(page).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(bytes)[part].copy_from_slice(&data[range]);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check(offset, len as usize)?;
        let whole = offset.div_ceil(PAGE)..(offset + len) / PAGE;
        self.pages.write().retain(|page, _| !whole.contains(page));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_and_its_origin_do_not_see_each_other() {
        let one = MemoryDisk::new(3 * PAGE);
        one.write(PAGE - 1, &[1; 2]).expect("write");
        let two = one.fork();
        two.write(PAGE, &[2]).expect("write");
        let byte = |disk: &MemoryDisk, at| {
            let mut out = [0];
            disk.read(at, &mut out).expect("read");
            out[0]
        };
        assert_eq!([byte(&one, PAGE - 1), byte(&one, PAGE), byte(&one, PAGE + 1)], [1, 1, 0]);
        assert_eq!([byte(&two, PAGE - 1), byte(&two, PAGE)], [1, 2]);
        two.discard(0, 2 * PAGE).expect("discard");
        assert_eq!(byte(&two, PAGE), 0);
        assert!(one.read(3 * PAGE, &mut [0]).is_err(), "beyond the end");
        assert!(one.write(3 * PAGE - 1, &[0; 2]).is_err(), "beyond the end");
    }
}
