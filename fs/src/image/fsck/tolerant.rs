//! The file of a damaged database.
//!
//! A damaged branch page makes up pages: of sizes up to gigabytes, and beyond the end of the file,
//! and after an error of its file the database refuses everything. So where nothing was verified, a
//! damaged block is shown only if it begins with a leaf. What cannot be shown is an impossible
//! page: over that the database gives up only what needs it.

use crate::image::BLOCK;
use crate::image::metastore::Backend;
use redb::StorageBackend;
use std::io;

/// The first byte of a leaf page.
const LEAF: u8 = 1;

/// Shows leaves as they are, and impossible pages where there are no others.
#[derive(Debug)]
pub struct Tolerant {
    /// The file.
    pub backend: Backend,
    /// Damaged branches are shown too: whoever reads them compares them with what is above first.
    pub shows_branches: bool,
}

impl StorageBackend for Tolerant {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let met = self.backend.0.damage_met();
        match self.backend.read(offset, out) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                // The length may be made up too: it is not filled.
                let head = out.len().min(BLOCK as usize);
                out[..head].fill(0);
                Ok(())
            }
            Ok(()) if !self.shows_branches && self.backend.0.damage_met() > met => {
                if out.first() != Some(&LEAF) {
                    out.fill(0);
                }
                Ok(())
            }
            result => result,
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.backend.write(offset, data)
    }
}
