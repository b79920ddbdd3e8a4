//! Memory into which a WRITE is received, with a page missing in the middle of its data.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::sync::{Arc, Weak};

use inflight_fuse::abi::{InHeader, WriteIn};
use inflight_fuse::channel::intake::{Read, Trap};
use parking_lot::Mutex;
use zerocopy::FromBytes as _;

use super::{Copier, Place, Region, page_size};
use crate::Gate;

/// Bytes of data that are received at most: as much as the kernel sends (FUSE_MAX_MAX_PAGES), and more than a channel takes.
const DATA_MAX: usize = 16 << 20;

/// One request at a time is received here. The first page has its header and arguments, the others its data.
pub(super) struct Snare {
    gate: Weak<Gate>,
    copier: Weak<Copier>,
    region: Region,
    /// Offset of the missing page.
    hole: usize,
    busy: Mutex<Option<Busy>>,
}

/// A read(2) into it.
struct Busy {
    /// Lets another thread receive.
    others: Option<Box<dyn Fn() + Send>>,
    /// The kernel came to the missing page.
    was_hit: bool,
    /// The request that is parked there, or was.
    held: Option<u64>,
}

impl fmt::Debug for Snare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snare").field("hole", &self.hole).finish_non_exhaustive()
    }
}

impl Snare {
    /// With page `page` of the data missing.
    pub fn new(gate: &Weak<Gate>, copier: &Arc<Copier>, page: u64) -> io::Result<Arc<Snare>> {
        let size = page_size();
        let most = (DATA_MAX / size) as u64;
        if page >= most {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("page {page}: no WRITE has more than {most}"),
            ));
        }
        let region = Region::new(size + DATA_MAX)?;
        let hole = size * (page as usize + 1);
        let address = region.address(hole);
        copier.faults.register(address)?;
        let (gate, ours) = (Weak::clone(gate), Arc::downgrade(copier));
        let snare = Arc::new(Snare { gate, copier: ours, region, hole, busy: Mutex::default() });
        copier.places.lock().insert(address, Place::Request(Arc::clone(&snare)));
        Ok(snare)
    }

    /// Header and arguments of what is being received, when its copy has come to the missing page.
    pub fn head(&self) -> Option<(InHeader, WriteIn)> {
        let mut busy = self.busy.lock();
        busy.as_mut()?.was_hit = true;
        let mut bytes = [0; size_of::<InHeader>() + size_of::<WriteIn>()];
        self.region.peek(0, &mut bytes);
        let (header, rest) = InHeader::read_from_prefix(&bytes).ok()?;
        Some((header, WriteIn::read_from_prefix(rest).ok()?.0))
    }

    /// The request is parked: whoever receives it is not there for others.
    pub fn waits(&self, unique: u64) {
        let mut busy = self.busy.lock();
        let Some(busy) = busy.as_mut() else { return };
        busy.held = Some(unique);
        busy.others.take().iter().for_each(|others| others());
    }

    /// It is not used any more. (The copier has it as long as it is, so it cannot end by itself.)
    pub fn end(&self) {
        if let Some(copier) = self.copier.upgrade() {
            copier.places.lock().remove(&self.region.address(self.hole));
        }
    }
}

impl Trap for Snare {
    fn receive(
        &self,
        read: Read<'_>,
        (head, tail): (&mut [u8], &mut [u8]),
        others: Box<dyn Fn() + Send>,
    ) -> Option<nix::Result<usize>> {
        let page = page_size();
        let room = tail.len().min(DATA_MAX);
        if room < tail.len() || head.len() > page {
            return None;
        }
        {
            let mut busy = self.busy.lock();
            if busy.is_some() {
                return None;
            }
            *busy = Some(Busy { others: Some(others), was_hit: false, held: None });
        }
        // SAFETY: `busy` keeps others out; the thread that sees the fault looks at the head with volatile reads, when the
        // kernel has written it.
        let (first, data) = unsafe { self.region.fill() }.split_at_mut(page);
        let taken = read(&mut first[..head.len()], &mut data[..room]);
        if let Ok(len) = taken {
            let in_head = len.min(head.len());
            head[..in_head].copy_from_slice(&first[..in_head]);
            let in_tail = len - in_head;
            tail[..in_tail].copy_from_slice(&data[..in_tail]);
        }
        let busy = self.busy.lock().take();
        if let Some(Busy { was_hit: true, held, .. }) = busy {
            self.region.forget(self.hole);
            if let (Err(_), Some(unique), Some(gate)) = (taken, held, self.gate.upgrade()) {
                gate.withdraw(unique);
            }
        }
        Some(taken)
    }

    fn end(&self) {
        Snare::end(self);
    }
}
