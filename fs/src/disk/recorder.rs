//! A disk that writes down what was done to it, so that a test can tell what a power cut leaves.

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, Over};
use parking_lot::Mutex;

/// Something that was done to a disk, and succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// [`Disk::write`].
    Write {
        /// First byte.
        offset: u64,
        /// What was written; copies of the event share it.
        data: Arc<[u8]>,
    },
    /// [`Disk::discard`].
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// [`Disk::sync`]: all that is logged before it is durable.
    Sync,
}

/// Passes everything on to another disk and keeps a log of it. It has no descriptor, so nothing
/// gets past the log.
#[derive(Debug)]
pub struct Recorder {
    inner: Arc<dyn Disk>,
    log: Mutex<Vec<Event>>,
}

impl Recorder {
    /// Records what is done to `inner` from now on.
    pub fn new(inner: Arc<dyn Disk>) -> Recorder {
        Recorder { inner, log: Mutex::default() }
    }

    /// Number of events so far.
    pub fn position(&self) -> usize {
        self.log.lock().len()
    }

    /// The events so far; the log begins anew.
    pub fn take_log(&self) -> Vec<Event> {
        std::mem::take(&mut self.log.lock())
    }
}

impl Over for Recorder {
    fn below(&self) -> &dyn Disk {
        &*self.inner
    }

    // The log is locked meanwhile: its order is the order in which the disk saw the calls.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut log = self.log.lock();
        self.inner.write(offset, data)?;
        log.push(Event::Write { offset, data: data.into() });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut log = self.log.lock();
        self.inner.sync()?;
        log.push(Event::Sync);
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut log = self.log.lock();
        self.inner.discard(offset, len)?;
        log.push(Event::Discard { offset, len });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Recorder};
    use crate::disk::{Disk, MemoryDisk};
    use std::sync::Arc;

    #[test]
    fn the_log_has_what_succeeded_in_order() {
        let disk = Recorder::new(Arc::new(MemoryDisk::new(8192)));
        disk.write(1, b"ab").expect("write");
        disk.sync().expect("sync");
        assert!(disk.write(8191, b"ab").is_err(), "beyond the end");
        disk.discard(4096, 4096).expect("discard");
        assert_eq!(disk.position(), 3);
        let write = Event::Write { offset: 1, data: (*b"ab").into() };
        let discard = Event::Discard { offset: 4096, len: 4096 };
        assert_eq!(disk.take_log(), [write, Event::Sync, discard]);
        assert_eq!(disk.position(), 0);
    }
}
