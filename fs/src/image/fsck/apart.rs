//! A disk on which something is built that is not to be found yet.

use crate::disk::Disk;
use crate::image::BLOCK;
use crate::image::superblock::SECOND;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Everything but the superblocks reaches the disk; flushing is left to the owner.
#[derive(Debug)]
pub struct Apart(pub Arc<dyn Disk>);

impl Disk for Apart {
    fn name(&self) -> &Path {
        self.0.name()
    }

    fn is_writable(&self) -> bool {
        self.0.is_writable()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
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
