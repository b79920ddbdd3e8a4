//! A disk that is only looked at.

use crate::disk::Disk;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A disk that refuses every write, whatever the one below it would do.
#[derive(Debug)]
pub struct Shielded(pub Arc<dyn Disk>);

impl Disk for Shielded {
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

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EBADF))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EBADF))
    }
}
