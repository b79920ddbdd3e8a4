//! Writes that never reach the image: opening a database writes to it, and a check or a read-only
//! mount keeps every byte.

use crate::image::BLOCK;
use crate::image::metastore::MetaStore;
use std::collections::HashMap;
use std::io;

/// Whole pages over the database.
pub struct Overlay {
    pages: HashMap<u64, Box<[u8]>>,
    /// Logical bytes from here on were cut off once: the image no longer shows through.
    base: u64,
}

impl Overlay {
    /// An overlay over `len` bytes that shows all of them.
    pub fn new(len: u64) -> Overlay {
        Overlay { pages: HashMap::new(), base: len }
    }

    /// What was written, over what the image has.
    pub fn read(&self, store: &MetaStore, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let shown = self.base.saturating_sub(offset).min(out.len() as u64) as usize;
        store.read_bytes(offset, &mut out[..shown])?;
        out[shown..].fill(0);
        for (page, at, range) in pages(offset, out.len()) {
            if let Some(bytes) = self.pages.get(&page) {
                let len = range.len();
                out[range].copy_from_slice(&bytes[at..at + len]);
            }
        }
        Ok(())
    }

    /// Keeps `data` in memory.
    pub fn write(&mut self, store: &MetaStore, offset: u64, data: &[u8]) -> io::Result<()> {
        for (page, at, range) in pages(offset, data.len()) {
            if !self.pages.contains_key(&page) {
                let mut bytes = vec![0; BLOCK as usize].into_boxed_slice();
                self.read(store, page * BLOCK, &mut bytes)?;
                self.pages.insert(page, bytes);
            }
            if let Some(bytes) = self.pages.get_mut(&page) {
                bytes[at..at + range.len()].copy_from_slice(&data[range]);
            }
        }
        Ok(())
    }

    /// What is cut off reads as zeros if it comes back.
    pub fn set_len(&mut self, len: u64) {
        self.base = self.base.min(len);
        self.pages.retain(|page, _| page * BLOCK < len);
        if let Some(bytes) = self.pages.get_mut(&(len / BLOCK)) {
            bytes[(len % BLOCK) as usize..].fill(0);
        }
    }
}

/// The pages that a range touches: number, first byte in the page, bytes of the caller's buffer.
fn pages(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = ((offset + done as u64) % BLOCK) as usize;
        let n = (len - done).min(BLOCK as usize - at);
        let page = (offset + done as u64) / BLOCK;
        done += n;
        (n > 0).then_some((page, at, done - n..done))
    })
}
