//! A disk on which something is built that is not to be found yet.

use crate::disk::{Disk, Over};
use crate::image::BLOCK;
use crate::image::superblock::SECOND;
use std::io;
use std::sync::Arc;

/// Everything but the superblocks reaches the disk; flushing is left to the owner.
#[derive(Debug)]
pub struct Apart(pub Arc<dyn Disk>);

impl Over for Apart {
    fn below(&self) -> &dyn Disk {
        &*self.0
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset == 0 || offset == SECOND * BLOCK {
            return Ok(());
        }
        self.0.write(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}
