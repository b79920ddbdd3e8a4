//! A disk that may only be read.

use inflight::disk::{Disk, MemoryDisk};
use std::io;
use std::path::Path;

/// What `fsck` is given: opening a database repairs it where it can.
#[derive(Debug)]
pub struct Frozen(pub MemoryDisk);

impl Disk for Frozen {
    fn name(&self) -> &Path {
        self.0.name()
    }

    fn is_writable(&self) -> bool {
        false
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        panic!("written although it may only be read");
    }

    fn sync(&self) -> io::Result<()> {
        panic!("flushed although it may only be read");
    }

    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        panic!("discarded although it may only be read");
    }
}
