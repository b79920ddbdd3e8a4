//! The file that redb sees.

use crate::image::BLOCK;
use crate::image::metastore::MetaStore;
use crate::image::pages::node::{PAGE_BLOCKS_MAX, leads_to_giants};
use crate::image::pages::{self, Slot};
use crate::mutant::{self, Mutant};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

/// The handle that redb owns; the mount keeps another one to the same store.
#[derive(Debug)]
pub struct Backend(pub Arc<MetaStore>);

impl Backend {
    fn check_thawed(&self) -> io::Result<()> {
        if self.0.frozen.load(Acquire) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

/// The header too leads to pages.
fn check_header(header: &[u8]) -> io::Result<()> {
    let slots = pages::slots(header);
    let slots = slots.iter().filter_map(Slot::decode);
    let mut roots = slots.flat_map(|slot| [slot.user, slot.system]).flatten();
    match roots.any(|root| root.place.blocks > PAGE_BLOCKS_MAX) {
        true => Err(io::Error::other(
            "the header of the database leads to a page of an impossible size",
        )),
        false => Ok(()),
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.superblock.read().metadata_bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.0.superblock.read().metadata_bytes) {
            // A page number that a damaged page made up; redb asks for an error here.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.0.overlay {
            Some(overlay) => overlay.lock().read(&self.0, offset, out)?,
            None => self.0.read_bytes(offset, out)?,
        }
        if offset == 0 {
            return check_header(out);
        }
        if leads_to_giants(out) {
            tracing::error!(
                "{}: metadata block {} leads to pages of impossible sizes",
                self.0.disk.name().display(),
                offset / BLOCK
            );
            out.fill(0);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_thawed()?;
        let store = &self.0;
        let old = std::mem::replace(&mut store.superblock.write().metadata_bytes, len);
        if let Some(overlay) = &store.overlay {
            overlay.lock().set_len(len);
            return Ok(());
        }
        if old != len {
            store.unsaved.store(true, Release);
            store.unplanned.store(true, Release);
        }
        if len < old { store.shrink(len, old) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.noting_failure(|| self.flush())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_thawed()?;
        self.noting_failure(|| match &self.0.overlay {
            Some(overlay) => overlay.lock().write(&self.0, offset, data),
            None => self.0.write_bytes(offset, data),
        })
    }
}

impl Backend {
    /// A database that is closed tells nobody that its last words were not written.
    fn noting_failure(&self, f: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        f().inspect_err(|_| self.0.unwritten.store(true, Release))
    }

    fn flush(&self) -> io::Result<()> {
        self.check_thawed()?;
        let store = &self.0;
        if store.overlay.is_some() {
            return Ok(());
        }
        let late = mutant::is(Mutant::LateChecksums);
        if !late {
            store.flush_sums()?;
        }
        store.disk.sync()?;
        if late {
            store.flush_sums()?;
        }
        // A superblock that names a new piece must find its checksums there.
        let forget = mutant::is(Mutant::ForgetPiece);
        if store.unsaved.load(Acquire) && !forget { store.save() } else { Ok(()) }
    }
}
