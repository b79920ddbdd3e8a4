//! Transfers that the server has a queue's ring make.
#![allow(unsafe_code)]

use super::super::flight::{Completion, Flight};
use super::{FLIGHT, Queue};
use crate::channel::Handler;
use inflight_dio::Buffer;
use io_uring::{opcode, squeue, types};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

impl Queue {
    pub(super) fn landed(&mut self, place: usize, result: i32, handler: &dyn Handler) {
        let Some(Flight { token, mut buffer, .. }) = self.flights.land(place) else { return };
        let result = match result {
            ..0 => Err(io::Error::from_raw_os_error(-result)),
            count => Ok(count as usize),
        };
        if let (Ok(count), Some(buffer)) = (&result, &mut buffer) {
            buffer.truncate(*count);
        }
        let completion = Completion { token, result, buffer };
        let _ = catch_unwind(AssertUnwindSafe(|| handler.completed(completion, self)));
    }

    /// Number of the fixed buffer of this ring that `buffer` is, for entries of the caller's own.
    pub fn fixed_index(&self, buffer: &Buffer) -> Option<u16> {
        let index = self.shared.lenders.iter().position(|lender| buffer.is_from(lender))?;
        self.has_fixed.then_some(index as u16)
    }

    /// Queues a read of `buffer.len()` bytes at byte `offset`; [`Handler::completed`] gets the
    /// buffer back with its length cut to what was read.
    ///
    /// # Errors
    /// The buffer, when [`Config::io_depth`](crate::channel::uring::Config::io_depth) transfers are in flight.
    pub fn read_at(
        &mut self,
        file: &Arc<File>,
        mut buffer: Buffer,
        offset: u64,
        token: u64,
    ) -> Result<(), Buffer> {
        let (fd, len) = (types::Fd(file.as_raw_fd()), buffer.len() as u32);
        let place = buffer.as_mut_slice().as_mut_ptr();
        let entry = match self.fixed_index(&buffer) {
            Some(index) => opcode::ReadFixed::new(fd, place, len, index).offset(offset).build(),
            None => opcode::Read::new(fd, place, len).offset(offset).build(),
        };
        self.fly(entry, file, buffer, token)
    }

    /// Queues a write of `buffer` at byte `offset`, as [`Queue::read_at`] a read.
    ///
    /// # Errors
    /// As [`Queue::read_at`].
    pub fn write_at(
        &mut self,
        file: &Arc<File>,
        buffer: Buffer,
        offset: u64,
        token: u64,
    ) -> Result<(), Buffer> {
        let (fd, len) = (types::Fd(file.as_raw_fd()), buffer.len() as u32);
        let place = buffer.as_ptr();
        let entry = match self.fixed_index(&buffer) {
            Some(index) => opcode::WriteFixed::new(fd, place, len, index).offset(offset).build(),
            None => opcode::Write::new(fd, place, len).offset(offset).build(),
        };
        self.fly(entry, file, buffer, token)
    }

    fn fly(
        &mut self,
        entry: squeue::Entry,
        file: &Arc<File>,
        buffer: Buffer,
        token: u64,
    ) -> Result<(), Buffer> {
        let flight = Flight { token, buffer: Some(buffer), _file: Some(Arc::clone(file)) };
        match self.flights.start(flight) {
            Ok(place) => self.depart(entry, place).map_err(|flight| flight.expect("its own")),
            Err(flight) => Err(flight.buffer.expect("it was put in above")),
        }
    }

    fn depart(&mut self, entry: squeue::Entry, place: usize) -> Result<(), Option<Buffer>> {
        let entry = entry.user_data(FLIGHT | place as u64).into();
        self.push_entry(entry).map_err(|error| {
            tracing::error!("queue {} takes no more entries: {error}", self.number());
            self.flights.land(place).and_then(|flight| flight.buffer)
        })
    }

    /// Queues any entry; [`Handler::completed`] gets its token. The entry's user data are
    /// replaced.
    ///
    /// # Errors
    /// False when as many transfers as possible are in flight, or the ring takes none.
    ///
    /// # Safety
    /// Everything that the entry refers to (memory, descriptors) must stay valid until it was
    /// completed.
    pub unsafe fn push(&mut self, entry: squeue::Entry, token: u64) -> bool {
        let flight = Flight { token, buffer: None, _file: None };
        match self.flights.start(flight) {
            Ok(place) => self.depart(entry, place).is_ok(),
            Err(_) => false,
        }
    }

    /// Queues a flush of what was written to `file`, without times and the like (fdatasync(2)); a thread of the kernel's waits
    /// for it. [`Handler::completed`] gets the token with 0 bytes and no buffer.
    ///
    /// # Errors
    /// False where none can be queued: see [`Queue::read_at`].
    pub fn sync_data(&mut self, file: &Arc<File>, token: u64) -> bool {
        let fd = types::Fd(file.as_raw_fd());
        let entry = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        let flight = Flight { token, buffer: None, _file: Some(Arc::clone(file)) };
        self.flights.start(flight).is_ok_and(|place| self.depart(entry, place).is_ok())
    }
}
